"""The layers that Q leaves in float: as few as what is asked needs, and those whose integers save least time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from conftest import follow, make_profile

from nacdeploy.metrics import drop
from nacdeploy.network.network import Network
from nacdeploy.strategies.settle import unquantized
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.clock import Grid, Sizes


@dataclass
class Written:
    """A clock with times from a list: integers take a millisecond, floats a millisecond more than they save."""

    saved: Mapping[str, float]
    is_here = False
    where = "a list"

    def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
        is_float = network.rule is None
        return {name: ((1.0 + is_float * self.saved.get(name, 1.0),),) for name in sizes}

    def networks_ms(self, networks: Sequence[Network], family: str = "") -> tuple[float, ...]:
        return ()

    def kept(self, family: str, precision: str) -> tuple[tuple[float, float], ...]:
        return ()


def floats(state: CompressionState) -> set[str]:
    return set(state.steps[-1].decision.rule.exclude)


def test_few_layers_stay_float_until_the_ratio_holds(baseline: CompressionState, task: Task) -> None:
    loose, strict = (follow(baseline, f"Q(bits=w4a8,min_snr_db={db})", task, make_profile()) for db in (5, 18))
    assert len(floats(loose)) < len(floats(strict))
    assert 0 < len(floats(strict)) < len(baseline.network.layers)
    why = strict.steps[-1].decision.left_out
    assert all("alone it would leave" in why[name] for name in floats(strict))


def test_score_is_kept_on_validation(baseline: CompressionState, task: Task) -> None:
    kept = follow(baseline, "Q(bits=w3a8,max_drop=0)", task, make_profile())
    images = task.data.validation
    before, now = (evaluation.own_score(each, task, images) for each in (unquantized(baseline.network), kept.network))
    assert drop(task.metric, before, now) <= 1e-9


def test_layer_whose_integers_save_nothing_stays_float_first(baseline: CompressionState, task: Task) -> None:
    strict = follow(baseline, "Q(bits=w4a8,min_snr_db=18)", task, make_profile())
    spared = sorted(set(baseline.network.layers) - floats(strict))[0]
    timed = replace(task, clock=Written({spared: 0.0}))
    found = follow(baseline, "Q(bits=w4a8,min_snr_db=18)", timed, make_profile())
    assert "us" in next(iter(found.steps[-1].decision.left_out.values()))
    assert spared in floats(found)


@pytest.mark.parametrize("given", [-1, "much"])
def test_drop_that_cannot_be_is_refused(given: object) -> None:
    with pytest.raises(Exception, match="max_drop"):
        make_profile(quantize={"max_drop": given})
