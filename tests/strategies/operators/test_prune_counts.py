"""How many channels P takes: n x ratio of the baseline's in whole units, the rest carried."""

import copy

import pytest
import torch
from conftest import follow, make_profile
from torch import nn

from nacdeploy.base.errors import RefusedError
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.network import Network
from nacdeploy.strategies.baseline import initial_state
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.prune.operator import PruneDecision
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.surgery.channels import channel_groups, channel_pruning
from nacdeploy.task import Task

N_CHANNELS = 8 + 8 + 16 + 16 + 32 + 32  # the six groups of a ResNet8 of width 8


def decisions(state: CompressionState) -> list[PruneDecision]:
    return [step.decision for step in state.steps if step.link.letter == "P"]


def n_left(state: CompressionState) -> int:
    return sum(group.n_channels for group in channel_groups.groups(state.network))


@pytest.mark.parametrize("ratio", [0.025, 0.1, 0.07])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_count_is_exact_at_multiple_one(ratio: float, scope: str, baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": ratio, "multiple": 1, "scope": scope})
    state = baseline
    for n_prunes in range(1, 5):
        state = advance(state, Link("P"), task, profile)
        assert sum(decision.taken for decision in decisions(state)) == int(n_prunes * ratio * N_CHANNELS + 1e-9)
        assert n_left(state) == N_CHANNELS - int(n_prunes * ratio * N_CHANNELS + 1e-9)


def test_rest_is_carried_at_multiple_eight(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.06, "multiple": 8})
    state = follow(baseline, "PPPP", task, profile)
    asked_each = 0.06 * N_CHANNELS  # 6.72: less than a unit
    carried = 0.0
    for n_prunes, decision in enumerate(decisions(state), start=1):
        assert decision.asked == pytest.approx(asked_each + carried)
        assert decision.taken % 8 == 0
        assert decision.carried == pytest.approx(decision.asked - decision.taken)
        total = sum(each.taken for each in decisions(state)[:n_prunes])
        assert abs(total - n_prunes * asked_each) < 8
        carried = decision.carried
    assert [decision.taken for decision in decisions(state)] == [0, 8, 8, 8]


def test_prune_whose_share_is_carried_says_so(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.06, "multiple": 8})
    state = advance(baseline, Link("P"), task, profile)
    (decision,) = decisions(state)
    explained = letters.make(Link("P"), profile).explain(decision)
    assert "carried to the next P" in explained
    assert decision.removed == {}
    assert state.metrics == baseline.metrics


def test_layers_keep_whole_units(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.3, "multiple": 8, "scope": "uniform"})
    state = follow(baseline, "PP", task, profile)
    assert all(group.n_channels % 8 == 0 for group in channel_groups.groups(state.network))


def test_prune_goes_on_until_every_layer_has_one_unit(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.9, "multiple": 4})
    state = follow(baseline, "P", task, profile)
    assert {group.n_channels for group in channel_groups.groups(state.network)} == {4}
    with pytest.raises(RefusedError, match="no layer has a unit of 4 channels left to give"):
        advance(state, Link("P"), task, profile)


def test_prune_is_not_refused_while_one_layer_has_a_unit(baseline: CompressionState, task: Task) -> None:
    """The narrow layers (8 channels) have nothing to give at multiple 8; the others have."""
    profile = make_profile(prune={"ratio": 0.2, "multiple": 8})
    state = advance(baseline, Link("P"), task, profile)
    assert state.network.backbone.get_submodule("stages.0.0.conv1").out_channels == 8  # type: ignore[comparison-overlap]
    assert n_left(state) == N_CHANNELS - 16


def test_share_is_of_the_baseline_whatever_is_left(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.125, "multiple": 1})
    asked = [decision.asked for decision in decisions(follow(baseline, "PQP", task, profile))]
    assert asked == pytest.approx([14.0, 14.0])


def test_ratio_of_the_chain_overrides_the_profile(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"multiple": 1})
    state = follow(baseline, "P(ratio=0.25)P(ratio=0.125)", task, profile)
    assert [decision.taken for decision in decisions(state)] == [28, 14]


def test_prune_after_quantize_keeps_precision(baseline: CompressionState, task: Task) -> None:
    profile = make_profile()
    state = follow(baseline, "QP", task, profile)
    assert str(state.network.rule.precision) == "w8a8"  # type: ignore[union-attr]
    assert state.network.quantizers.keys() == follow(baseline, "Q", task, profile).network.quantizers.keys()


def test_dead_channels_are_removed_before_all_others(baseline: CompressionState, task: Task) -> None:
    from copy import deepcopy

    network = deepcopy(baseline.network)
    convolution, norm = (network.backbone.get_submodule(f"stages.2.0.{name}") for name in ("conv1", "bn1"))
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        convolution.weight[[3, 17]] = 0
        norm.bias[[3, 17]] = 0
    state = advance(
        initial_state(network, task), Link("P"), task, make_profile(prune={"ratio": 2.1 / N_CHANNELS, "multiple": 1})
    )
    (decision,) = decisions(state)
    kept = next(
        item.kept for item in decision.cut.slices if item.tensor == "backbone.stages.2.0.conv1.weight" and not item.axis
    )
    assert set(range(32)) - set(kept) == {3, 17}


class Computed(nn.Conv2d):
    """Its weight follows from all of its inputs, which therefore cannot lose any."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, None, 1, 1)


class Standardised(nn.Sequential):
    def __init__(self, n_standardised: int) -> None:
        first = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        others = [Computed(8, 8, 3, 1, 1, bias=False) for _ in range(n_standardised)]
        plain = [nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)] if n_standardised == 1 else []
        super().__init__(first, *others, *plain, nn.Flatten(), nn.Linear(8 * 64, 10))


def state_of(backbone: nn.Module, task: Task) -> CompressionState:
    return initial_state(Network(backbone.eval(), grid_named("ort"), (1, 8, 8)).eval(), task)


def test_prune_that_finds_nothing_names_the_cause_and_the_layers(task: Task) -> None:
    state = state_of(Standardised(2), task)
    operator = letters.make(Link("P"), make_profile(prune={"ratio": 0.5, "multiple": 8}))
    refusal = operator.refusal(state)
    assert refusal is not None
    assert refusal == (
        "no layer has a unit of 8 channels left to give; '1', '0': a Computed that reads it computes its weight from "
        "all of its inputs; '2': 8 channels are one unit of 8 or less"
    )


def test_prune_says_what_it_left_whole(task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.25, "multiple": 1})
    state = advance(state_of(Standardised(1), task), Link("P"), task, profile)
    (decision,) = decisions(state)
    assert set(decision.removed) <= {"1", "3"}
    assert decision.left == ("'0': a Computed that reads it computes its weight from all of its inputs",)
    assert "left whole: '0': a Computed" in letters.make(Link("P"), profile).explain(decision)


def test_prune_cuts_before_a_recurrent_layer(task: Task) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 4, 3, 1, 1)
            self.rnn, self.h = nn.LSTM(32, 6, batch_first=True), nn.Linear(6, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.b(torch.relu(self.a(x)))).permute(0, 3, 1, 2).flatten(2)
            return self.h(self.rnn(x)[0][:, -1])

    profile = make_profile(prune={"ratio": 0.5, "multiple": 1})
    state = advance(state_of(Recurrent(), task), Link("P"), task, profile)
    (decision,) = decisions(state)
    assert decision.removed == {"a": 4}
    assert decision.left == ("'b': it meets lstm in 'rnn'",)


class Branch(nn.Module):
    """A narrow branch whose channels matter least, joined with a wide one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.gate = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)
        with torch.no_grad():
            self.narrow.weight.mul_(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.wide(x), self.narrow(x)], 1)
        return self.head(torch.relu(x * torch.sigmoid(self.gate(x))).mean((2, 3)))


def test_every_layer_keeps_a_channel_where_a_group_spans_several() -> None:
    network = Network(Branch().eval(), grid_named("ort"), (3, 8, 8))
    labelled = {g.root: g for g in channel_groups.groups(network)}
    gate = labelled["gate"]
    least = {"gate": tuple(range(15, 3, -1))}  # all of the narrow branch's channels go first
    assert gate.n_channels == 16
    spared = channel_pruning.spared(network, least, {"gate": 1})
    cut = copy.deepcopy(network)
    channel_pruning.apply_cut(cut, channel_pruning.plan_cut(network, spared))
    assert all(len(layer.weight) > 0 for layer in cut.layers.values())  # type: ignore[arg-type]
    reversed_order = {"gate": tuple(range(12, 16))}
    assert channel_pruning.spared(network, reversed_order, {"gate": 1}) == {"gate": (12, 13, 14)}
