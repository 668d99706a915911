"""P with another importance, ratios by layer and reconstruction."""

from dataclasses import replace

import pytest
import torch
from conftest import follow, make_profile

from nacdeploy import task as tasks
from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.data.sets import ImageSet
from nacdeploy.exporters import parity, targets
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.runtime import answering
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.prune.operator import PruneDecision
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.surgery.channels.channel_importance import CRITERIA
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

N_CHANNELS = 8 + 8 + 16 + 16 + 32 + 32
INNER = {f"stages.{stage}.0.conv1": width for stage, width in enumerate((8, 16, 32))}


def settings(importance: str = "l1", **prune: object) -> Profile:
    return make_profile(prune={"ratio": 0.2, "multiple": 1, "importance": importance, **prune})


def decision_of(state: CompressionState) -> PruneDecision:
    return next(step.decision for step in reversed(state.steps) if step.link.letter == "P")


@pytest.mark.parametrize("importance", CRITERIA)
def test_exactly_the_asked_channels_go_by_every_importance(
    importance: str, baseline: CompressionState, task: Task
) -> None:
    profile = settings(importance)
    state = follow(baseline, "PP", task, profile)
    left = sum(group.n_channels for group in channel_groups.groups(state.network))
    assert left == N_CHANNELS - int(2 * 0.2 * N_CHANNELS + 1e-9)
    assert follow(baseline, "PP", task, profile).key == state.key


def test_network_cut_by_each_importance_in_turn_is_exported_as_it_answers(
    baseline: CompressionState, task: Task
) -> None:
    profile = settings(ratio=0.04, reconstruct=True)
    word = "".join(f"P(importance={importance})" for importance in CRITERIA) + "Q"
    state = follow(baseline, word, task, profile)
    assert state.metrics.cost.macs < 0.6 * baseline.metrics.cost.macs
    graph = to_onnx(state.network, 20)
    checks = parity.check(state.network, graph, task, profile.export, answering(targets.parse("ort")))
    assert all(each.agreement >= 0.99 for each in checks)


@pytest.mark.parametrize("importance", ["l1", "apoz", "taylor", "lasso", "random"])
def test_order_of_prune_and_quantize_does_not_matter(importance: str, baseline: CompressionState, task: Task) -> None:
    profile = settings(importance, reconstruct=True)
    assert follow(baseline, "PQ", task, profile).key == follow(baseline, "QP", task, profile).key


def test_default_importance_is_the_magnitude_of_the_group(baseline: CompressionState, task: Task) -> None:
    plain = follow(baseline, "P", task, make_profile())
    named = follow(baseline, "P(importance=magnitude)", task, make_profile())
    assert plain.key == named.key


def test_reconstruction_answers_nearer_to_the_baseline(baseline: CompressionState, task: Task) -> None:
    errors = []
    for reconstruct in (False, True):
        state = follow(baseline, "P", task, settings("l1", ratio=0.4, reconstruct=reconstruct))
        before, after = (
            evaluation.predict(each.network, task.data, task.data.validation) for each in (baseline, state)
        )
        errors.append(float((after - before).norm() / before.norm()))
    assert errors[1] < 0.6 * errors[0]


def test_refitted_state_is_loaded_without_data(
    baseline: CompressionState, task: Task, tmp_path_factory: pytest.TempPathFactory
) -> None:
    profile, folder = settings("lasso", reconstruct=True), tmp_path_factory.mktemp("refitted")
    state = follow(baseline, "P", task, profile)
    checkpoint.write(folder, state, checkpoint.record_of(state, task, profile))
    assert checkpoint.load(folder)[0].key == state.key


def test_ratios_cut_the_named_layers_alone(baseline: CompressionState, task: Task) -> None:
    profile = settings(ratios={"stages.0.0.conv1": 0.5, "stages.2.0.conv1": 0.3})
    state = follow(baseline, "P", task, profile)
    assert decision_of(state).removed == {"stages.0.0.conv1": 4, "stages.2.0.conv1": 9}
    assert decision_of(state).carried == pytest.approx(0.6)
    again = follow(state, "P", task, profile)
    assert decision_of(again).removed == {"stages.0.0.conv1": 3, "stages.2.0.conv1": 10}  # 2 x 0.3 x 32 = 19.2


def test_ratio_of_coupled_layers_cuts_all_of_them(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "P", task, settings(ratios={"stages.1.0.conv2": 0.25}))
    widths = [state.network.backbone.get_submodule(f"stages.1.0.{n}").out_channels for n in ("conv2", "shortcut.0")]
    assert widths == [12, 12]
    assert decision_of(state).taken == 4


def test_ratios_honour_the_multiple(baseline: CompressionState, task: Task) -> None:
    profile = settings(multiple=4, ratios={"stages.1.0.conv1": 0.45, "stages.0.0.conv1": 0.2})
    state = follow(baseline, "P", task, profile)
    assert decision_of(state).removed == {"stages.1.0.conv1": 4}
    assert decision_of(state).carried_by == pytest.approx({"stages.1.0.conv1": 3.2, "stages.0.0.conv1": 1.6})


def test_ratio_near_one_leaves_the_last_unit(baseline: CompressionState, task: Task) -> None:
    profile = settings(ratios=dict.fromkeys(INNER, 1 - 1e-9))
    state = follow(baseline, "P", task, profile)
    assert decision_of(state).removed == {layer: width - 1 for layer, width in INNER.items()}
    with pytest.raises(RefusedError, match="no named layer has a unit of 1 channels left"):
        advance(state, Link("P"), task, profile)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ({"stages.0.0.conv3": 0.5}, r"no layer is named 'stages.0.0.conv3'; did you mean 'stages.0.0.conv[12]'"),
        ({"classifier": 0.5}, "the outputs of 'classifier' cannot be cut"),
        ({"stages.1.0.conv2": 0.5, "stages.1.0.shortcut.0": 0.2}, "share their channels: give them one ratio"),
    ],
)
def test_wrong_table_ends_with_one_line(
    ratios: dict[str, float], said: str, baseline: CompressionState, task: Task
) -> None:
    with pytest.raises(UsageError, match=said):
        follow(baseline, "P", task, settings(ratios=ratios))


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, float("nan")])
def test_ratio_outside_its_range_is_refused_by_the_profile(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"prune\.ratios\.stem"):
        settings(ratios={"stem": ratio})


def test_unknown_importance_names_the_known(profile: Profile) -> None:
    with pytest.raises(UsageError, match=r"P\(importance=l3\): Input should be 'magnitude', 'l1', 'l2'"):
        letters.make(Link("P", (("importance", "l3"),)), profile)


def test_importance_without_what_it_ranks_by_is_refused(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(width=24, prune={"importance": "slim"}, images={"input_size": 8})
    other = tasks.make("deit_tiny", "digits", profile)
    state = initial_state(plain_network(other, profile), other)
    with pytest.raises(RefusedError, match=r"'slim' cannot rank .*: it ranks by the factors of batch norms"):
        advance(state, Link("P"), other, profile)


def test_training_images_alone_are_looked_at(baseline: CompressionState, task: Task) -> None:
    """Validation and test images of noise change nothing."""
    noise = ImageSet(torch.randint(0, 255, (20, 1, 8, 8), dtype=torch.uint8), torch.arange(20) % 10)
    other = replace(task, data=replace(task.data, test=noise, validation=noise))
    profile = settings("taylor")
    decided = [letters.make(Link("P"), profile).decide(baseline, each) for each in (task, other)]
    assert decided[0] == decided[1]
