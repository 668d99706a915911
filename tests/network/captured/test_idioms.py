"""Activations that a network spells out are found as the operators that they are."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nacdeploy.network.captured.capture import capture
from nacdeploy.network.captured.graph import Interpreter, operator_name

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "half first": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "half last": lambda x: x * (torch.erf(x * math.sqrt(0.5)) + 1) / 2,
    "halved sum": lambda x: x * (0.5 * (1.0 + torch.erf(x / 1.4142135381698608))),
}


class Spelt(nn.Module):
    n_made = 0

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        Spelt.n_made += 1  # graphs are remembered by structure
        self.conv, self.form = nn.Conv2d(3, 3 + Spelt.n_made, 3), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x)).mean((2, 3))


def operators(module: nn.Module) -> list[str]:
    graph = capture(module, (3, 8, 8)).graph
    assert graph is not None
    return [operator_name(node.target) for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_gelu_by_its_formula_is_one_operator_and_answers_alike(form: Callable[[Tensor], Tensor]) -> None:
    module = Spelt(form).eval()
    assert operators(module) == ["gelu", "mean"]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        found = Interpreter(module, capture(module, (3, 8, 8))).run(x)
        torch.testing.assert_close(found, module(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: 0.5 * x * (1 + torch.erf(x)),
        lambda x: 0.5 * x * (2 + torch.erf(x / math.sqrt(2))),
        lambda x: 0.5 * (x + 1) * (1 + torch.erf(x / math.sqrt(2))),
    ],
)
def test_other_formulas_stay(form: Callable[[Tensor], Tensor]) -> None:
    assert "gelu" not in operators(Spelt(form).eval())


def test_copies_that_change_nothing_are_no_nodes() -> None:
    assert operators(Spelt(lambda x: torch.relu(x.float().to(x.dtype).detach())).eval()) == ["relu", "mean"]


def test_conversions_that_change_the_type_stay() -> None:
    assert "to" in "".join(operators(Spelt(lambda x: x.double().relu().float()).eval()))
