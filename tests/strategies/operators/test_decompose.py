"""D takes apart what gets cheaper, once or layer by layer, and goes with every other letter."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import follow, make_profile
from small_networks import SHAPE, Depthwise, Residual, images
from small_networks import network as small
from torch import nn

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.network.network import no_grad_eval
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.decompose.operator import DecomposeDecision
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.surgery.low_rank import decomposition, low_rank
from nacdeploy.surgery.low_rank.low_rank import product, ranks_of
from nacdeploy.task import Task

LAYER = "stages.2.0.conv2"


def profile_of(**decompose: Any) -> Profile:
    table = {"rank": "ratio", "multiple": 1, **decompose}
    return make_profile(decompose=table, finetune={"epochs": 1}, exits={"recipe": {"epochs": 1}})


def decision(state: CompressionState) -> DecomposeDecision:
    found = state.steps[-1].decision
    assert isinstance(found, DecomposeDecision)
    return found


def explained(word: str, state: CompressionState, profile: Profile) -> str:
    (link,) = Chain.parse(word)
    return letters.make(link, profile).explain(decision(state))


def layer(state: CompressionState, name: str = LAYER) -> Any:
    return state.network.backbone.get_submodule(name)


def test_half_ranks_are_half_of_every_mode(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "D(ratio=0.5)", task, profile_of())
    assert decision(state).layers[LAYER].ranks == (16, 16) == ranks_of(layer(state))
    assert {type(module) for module in layer(state)} == {nn.Conv2d}
    assert state.metrics.cost.macs < 0.5 * baseline.metrics.cost.macs
    assert sum(each.macs for each in decision(state).layers.values()) == state.metrics.cost.macs


def test_rank_in_units_leaves_the_rate_to_the_other(baseline: CompressionState, task: Task) -> None:
    """Weights (32, 32, 3, 3) at rate 2: 19 and 19 by the quadratic equation, r_in 16 in units of 8, and of
    512 + r (32 + 16 x 9) = 9216 / 2 r is 23.3, in units 24. Then 4736 weights at rate 2: 13 and 13, r_in 8 (below its
    16), and of 256 + r (32 + 8 x 9) = 4736 / 2 r is 20.3, in units below its 24 again 16."""
    profile = profile_of(rank="rate", multiple=8)
    first = follow(baseline, "D(rate=2)", task, profile)
    assert decision(first).layers[LAYER].ranks == (24, 16)
    assert decision(follow(first, "D(rate=2)", task, profile)).layers[LAYER].ranks == (16, 8)


def test_second_pass_decomposes_the_product(baseline: CompressionState, task: Task) -> None:
    profile = profile_of()
    first = follow(baseline, "D", task, profile)
    second = follow(first, "D", task, profile)
    whole = low_rank.whole(layer(first))
    direct = low_rank.decompose(whole, "tucker2", (8, 8))
    assert decision(second).layers[LAYER].ranks == (8, 8)
    assert torch.allclose(product(layer(second)), product(direct), atol=1e-5)


def test_layers_per_step_go_round(baseline: CompressionState, task: Task) -> None:
    profile = profile_of(layers_per_step=4)
    states = [baseline]
    for _ in range(3):
        states.append(follow(states[-1], "D", task, profile))
    taken = [list(decision(state).layers) for state in states[1:]]
    assert [len(names) for names in taken] == [4, 4, 4]
    layers = list(decision(follow(baseline, "D", task, profile_of())).layers)
    assert taken[0] + taken[1] + taken[2] == (layers + layers)[:12]


def test_ranks_by_hand_are_taken_pass_by_pass(baseline: CompressionState, task: Task) -> None:
    profile = profile_of(ranks={LAYER: [[20, 16], [10, 8]], "classifier": [4]}, exclude=["stages.0", "stem"])
    first = follow(baseline, "D", task, profile)
    assert (ranks_of(layer(first)), ranks_of(layer(first, "classifier"))) == ((20, 16), (4,))
    assert isinstance(layer(first, "stages.0.0.conv1"), nn.Conv2d)
    second = follow(first, "D", task, profile)
    assert ranks_of(layer(second)) == (10, 8)
    assert decision(second).whole["classifier"] == "no fewer MACs with factors"


def test_file_in_muscos_form_decides_by_layer(baseline: CompressionState, task: Task, tmp_path: Path) -> None:
    path = tmp_path / "low.yaml"
    path.write_text(f"{LAYER}: {{decomposition: cp3, rank_selection: param_reduction, param_reduction_rate: 4}}\n")
    state = follow(baseline, "D", task, profile_of(config=str(path)))
    assert list(decision(state).layers) == [LAYER]
    assert decision(state).layers[LAYER].format == "cp3"
    path.unlink()
    profile = profile_of(config=str(path))
    assert str(checkpoint.rebuild(task.spec, "ort", profile, state.steps)) == str(state.network)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ranks": {"stages.2.0.conv3": [8, 8]}}, "no layer is named 'stages.2.0.conv3'; did you mean 'stages.2.0.co"),
        ({"ranks": {LAYER: [64, 8], "classifier": [99]}}, r"ranks \[64, 8\] do not fit.*; ranks \[99\] do not fit"),
        ({"ranks": {LAYER: [8]}}, "takes 2 of at most 32 and 32"),
        ({"exclude": ["stage"]}, "no module is named 'stage'; did you mean 'stages'"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml is not readable"),
    ],
)
def test_wrong_settings_are_one_line(
    table: dict[str, Any], message: str, baseline: CompressionState, task: Task
) -> None:
    with pytest.raises(UsageError, match=message):
        follow(baseline, "D", task, profile_of(**table))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("D(rate=2,ratio=0.5)", "two ways to choose ranks"),
        ("D(rate=1)", "greater than 1"),
        ("D(weakn=1)", "did you mean 'weaken'"),
        ("D(method=tucker)", "tucker2"),
    ],
)
def test_wrong_parameters_are_one_line(word: str, message: str, baseline: CompressionState, task: Task) -> None:
    with pytest.raises(UsageError, match=message):
        follow(baseline, word, task, profile_of())


def test_nothing_that_gets_cheaper_is_a_refusal(baseline: CompressionState, task: Task) -> None:
    profile = profile_of()
    with pytest.raises(RefusedError, match=r"no layer can be decomposed: .*no fewer MACs"):
        follow(baseline, "D(ratio=0.99)", task, profile)
    with pytest.raises(RefusedError, match="excluded"):
        follow(baseline, "D", task, profile_of(exclude=["stem", "stages", "classifier"]))


def test_masked_layers_stay_whole(baseline: CompressionState, task: Task) -> None:
    profile = profile_of()
    state = follow(baseline, "S(pattern=element)", task, profile)
    with pytest.raises(RefusedError, match="masked by S"):
        follow(state, "D", task, profile)
    after = follow(baseline, "SD", task, profile)
    assert "masked by S" in explained("D", after, profile)
    former = follow(baseline, "S", task, profile)
    assert all(torch.equal(m, after.network.masks.get(name)) for name in former.network.masks.layers
               if (m := former.network.masks.get(name)) is not None)  # fmt: skip


@pytest.mark.parametrize("word", ["QPDF", "DPFEQF", "PDQ", "EDP", "DS"])
def test_chain_answers_and_is_rebuilt(word: str, baseline: CompressionState, task: Task) -> None:
    profile = profile_of()
    state = follow(baseline, word, task, profile)
    rebuilt = checkpoint.rebuild(task.spec, state.network.grid.name, profile, state.steps)
    rebuilt.load_state_dict(state.network.state_dict())
    x = task.data.normalize(task.data.train.images[:4])
    with no_grad_eval(rebuilt), no_grad_eval(state.network):
        assert torch.equal(rebuilt(x), state.network(x))
    for name in decision_layers(state):
        assert min(ranks_of(layer(state, name))) >= 1


def decision_layers(state: CompressionState) -> list[str]:
    return [
        name for step in state.steps if isinstance(step.decision, DecomposeDecision) for name in step.decision.layers
    ]


def test_order_of_d_and_q_gives_one_state(baseline: CompressionState, task: Task) -> None:
    profile = profile_of()
    assert follow(baseline, "DQ", task, profile).key == follow(baseline, "QD", task, profile).key


def test_binary_layer_is_decomposed_as_it_answers(baseline: CompressionState, task: Task) -> None:
    profile = profile_of()
    state = follow(baseline, "Q(weights=binary)", task, profile)
    effective: Any = decomposition.effective(state.network, LAYER)
    assert effective.weight.abs().flatten(1).std(1).max() < 1e-6, "one magnitude for each filter"
    assert layer(state).weight.abs().flatten(1).std(1).min() > 1e-3


def test_factors_keep_what_their_layer_was_told(baseline: CompressionState, task: Task) -> None:
    profile = profile_of().model_copy(
        update={"quantize": make_profile(quantize={"exclude": [LAYER], "layer_bits": {"classifier": "w4a8"}}).quantize}
    )
    state = follow(baseline, "DQ", task, profile)
    bits = state.network.plan.weight_bits
    assert not any(name.startswith(LAYER) for name in bits)
    assert bits["classifier.0"] == bits["classifier.1"] == 4


def test_exit_goes_on_reading_a_layer_that_was_taken_apart() -> None:
    net = small(Residual())
    names = [node.name for node in net.graph.nodes if str(node.target) == "conv1"]
    taken: dict[str, Any] = {}
    x = images(2)
    net.run(x, _plain(net), lambda node, value: taken.update({node: value}), set(names))
    whole = copy.deepcopy(net)
    limits = tuple(whole.backbone.get_submodule("conv1").weight.shape[:2])
    decomposition.replace(whole, {"conv1": ("tucker2", limits)})
    former = decomposition._outputs(net, ["conv1"])
    now = dict(zip(former, decomposition._outputs(whole, ["conv1"]), strict=True))
    whole.run(x, _plain(whole), lambda node, value: taken.update({node: value}), {now[names[0]]})
    assert torch.allclose(taken[now[names[0]]], taken[names[0]], atol=1e-4)


def _plain(net: Any) -> Any:
    from nacdeploy.network.network import Simulation

    return Simulation(net)


def test_depthwise_layer_is_no_candidate_for_any_format() -> None:
    net = small(Depthwise())
    found = decomposition.layers(net, ())
    grouped = [module for module in found.values() if getattr(module, "groups", 1) > 1]
    assert grouped
    assert {low_rank.why_not(module, "tucker2") for module in grouped} == {"depthwise or grouped"}
    assert SHAPE
