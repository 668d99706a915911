"""The identity of a user's functions: other code is told apart, and the same code is the same in every process."""

import functools
import subprocess
import sys
from typing import Any

import torch
from torch.nn import functional

from nacdeploy.brought import identity

RATE = 0.1


def helper(x: Any) -> Any:
    return x * RATE


def calling(x: Any) -> Any:
    return helper(x)


class Loss:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, a: Any, b: Any) -> Any:
        return self.weight * (a - b).abs()

    def squared(self, a: Any, b: Any) -> Any:
        return (a - b).square()


def scaled(n: int) -> Any:
    return lambda x: x * n


def test_names_that_are_called_tell_functions_of_one_bytecode_apart() -> None:
    one, other = (lambda a, b: functional.l1_loss(a, b)), (lambda a, b: functional.mse_loss(a, b))
    assert one.__code__.co_code == other.__code__.co_code
    assert identity.of(one) != identity.of(other)


def test_numbers_closed_over_bound_and_within_count() -> None:
    assert identity.of(scaled(2)) == identity.of(scaled(2)) != identity.of(scaled(3))
    partial = [identity.of(functools.partial(helper, x)) for x in (1, 2)]
    assert partial[0] != partial[1]
    assert identity.of(Loss(1.0)) == identity.of(Loss(1.0)) != identity.of(Loss(2.0))
    assert identity.of(Loss(1.0).squared) != identity.of(Loss(1.0))
    nested = [identity.of(lambda x, n=n: [y * n for y in x]) for n in (1, 2)]
    assert nested[0] != nested[1]


def test_what_a_function_calls_of_its_own_module_counts(monkeypatch: Any) -> None:
    before = identity.of(calling)
    monkeypatch.setitem(globals(), "RATE", 0.2)
    assert identity.of(calling) != before
    monkeypatch.setitem(globals(), "RATE", 0.1)
    assert identity.of(calling) == before
    monkeypatch.setitem(globals(), "helper", scaled(4))
    assert identity.of(calling) != before


def test_functions_in_other_places_are_others_and_libraries_are_one_name() -> None:
    assert identity.of(helper, None) != identity.of(None, helper)
    assert identity.of(functional.mse_loss) != identity.of(functional.l1_loss)
    assert identity.of(torch.nn.L1Loss()) != identity.of(torch.nn.MSELoss())


def test_long_chains_cycles_and_modes_are_no_trouble() -> None:
    chain: Any = helper
    for _ in range(3000):
        chain = functools.partial(calling, chain)
    assert identity.of(chain) == identity.of(chain)
    ring: list[Any] = []
    ring.append(ring)
    model = torch.nn.Sequential(torch.nn.ReLU())
    holding = lambda: (ring, model)  # noqa: E731
    before = identity.of(holding)
    model.eval()
    assert identity.of(holding) == before


def test_identity_is_the_same_in_another_process() -> None:
    code = (
        "from nacdeploy.brought import identity\n"
        "def f(x, kinds=frozenset({'a', 'b', 'c'})):\n"
        "    return x in {'red', 'green', 'blue'} or x in kinds\n"
        "print(identity.of(f))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(runs)) == 1 and len(runs[0]) == 65
