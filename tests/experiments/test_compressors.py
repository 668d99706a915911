"""The compressors on a trained network: what was asked is there, the result is a checkpoint like any other."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.experiments.config import grammar, vocabulary
from nacdeploy.experiments.config.selection import select
from nacdeploy.experiments.procedures import compressors
from nacdeploy.experiments.procedures.allocation import MacsModel, overall, scaled_to, shifted_to
from nacdeploy.experiments.procedures.amc import within_budget
from nacdeploy.experiments.procedures.annealing import annealed
from nacdeploy.experiments.procedures.by_sensitivity import tolerances
from nacdeploy.experiments.procedures.run import Run
from nacdeploy.network.attachments.sparsity import sparsity_of
from nacdeploy.profile import Profile, override
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.task import Task

SHORT: dict[str, dict[str, Any]] = {
    "agp": {"end_epoch": 2},
    "admm": {"num_iterations": 1, "training_epochs": 1},
    "netadapt": {"sparsity_per_iteration": 0.25, "short_term_epochs": 0},
    "simulated-annealing": {"stop_temperature": 85},
    "sensitivity": {"sparsity_per_iter": 0.5, "ratios": [0.5]},
    "lottery-ticket": {"prune_iterations": 1, "rewind_epochs": 1},
    "auto-compress": {"num_iterations": 1, "admm_num_iterations": 1, "admm_training_epochs": 1, "stop_temperature": 95},
    "amc": {"train_episode": 2},
}
ONE_SHOT = ("l1", "l2", "fpgm", "apoz", "mean-activation", "taylor")


def made(
    state: CompressionState, task: Task, profile: Profile, name: str, entries: list[dict[str, Any]], **settings: Any
) -> tuple[CompressionState, list[float], list[str]]:
    """A compressor's state, intermediate results and remarks."""
    table = {"compressor": name, "config_list": entries, **SHORT.get(name, {}), **settings}
    compression = grammar.read({"compression": table}).experiment.filled({})
    seen: list[float] = []
    said: list[str] = []
    backbone = state.network.backbone
    selection = select(compression.config_list, backbone, with_norms=compression.compressor == "slim")
    quick = override(profile, {"finetune": {"epochs": 1}, "train": {"epochs": 2}})
    run = Run(state, task, quick, selection, compression.settings, seen.append, said.append)
    return compressors.compress(compression.compressor, run), seen, said


@pytest.mark.parametrize("name", ONE_SHOT)
def test_channel_compressor_cuts_the_asked_share(
    name: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    entries = [{"sparsity": 0.3, "op_names": ["stages.1.0.conv1"]}]
    state, seen, _ = made(baseline, task, profile, name, entries)
    widths = [n.backbone.stages[1][0].conv1.out_channels for n in (baseline.network, state.network)]
    assert widths[1] == widths[0] - int(0.3 * widths[0])
    assert str(state.chain) == "PF"
    assert seen


def test_level_zeroes_the_asked_share_of_each_layer(baseline: CompressionState, task: Task, profile: Profile) -> None:
    entries = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"sparsity": 0.75, "op_names": ["classifier"]}]
    state, _, _ = made(baseline, task, profile, "level", entries)
    kept = {name: float(state.network.masks.get(name).float().mean()) for name in state.network.masks.layers}  # type: ignore[union-attr]
    assert kept["classifier"] == pytest.approx(0.25, abs=0.01)
    assert kept["stages.2.0.conv1"] == pytest.approx(0.5, abs=0.01)


def test_slim_takes_one_threshold_over_all_norms(baseline: CompressionState, task: Task, profile: Profile) -> None:
    state, _, _ = made(baseline, task, profile, "slim", [{"sparsity": 0.25, "op_types": ["BatchNorm2d"]}])
    n = [sum(g.n_channels for g in channel_groups.groups(s.network)) for s in (baseline, state)]
    assert n[1] == n[0] - int(0.25 * n[0])


def test_coupled_layers_lose_the_least_share_asked(baseline: CompressionState, task: Task, profile: Profile) -> None:
    entries = [
        {"sparsity": 0.5, "op_names": ["stages.1.0.conv2"]},
        {"sparsity": 0.25, "op_names": ["stages.1.0.shortcut.0"]},
    ]
    state, _, said = made(baseline, task, profile, "l1", entries)
    assert state.network.backbone.stages[1][0].conv2.out_channels == 12
    assert any("share their channels" in line for line in said)


def test_coupled_layers_stay_whole_when_one_is_excluded(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    entries = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": ["stages.1.0.shortcut.0"]}]
    state, _, said = made(baseline, task, profile, "l1", entries)
    assert state.network.backbone.stages[1][0].conv2.out_channels == 16
    assert any("which is excluded" in line for line in said)


def test_named_layer_that_cannot_be_cut_is_refused(baseline: CompressionState, task: Task, profile: Profile) -> None:
    with pytest.raises(UsageError, match="'classifier' cannot be cut"):
        made(baseline, task, profile, "l1", [{"sparsity": 0.5, "op_names": ["classifier"]}])


@pytest.mark.parametrize(
    ("name", "word", "weights"),
    [("naive", "Q", "symmetric"), ("qat", "QF", "symmetric"), ("dorefa", "QF", "dorefa"), ("bnn", "QF", "binary")],
)
def test_quantizer_gives_layers_their_bits(
    name: str, word: str, weights: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    bits = {} if name == "bnn" else {"quant_bits": {"weight": 4, "output": 8}}
    entries = [{"op_types": ["Conv2d"], **bits}, {"op_names": ["classifier"], "quant_bits": 8}]
    entries += [{"exclude": True, "op_names": ["stem.0"]}]
    state, _, _ = made(baseline, task, profile, name, entries)
    assert str(state.chain) == word
    assert state.network.rule is not None
    assert state.network.rule.weights == weights
    assert "stem.0" not in state.network.plan.weight_bits
    if name != "bnn":
        assert state.network.plan.weight_bits["classifier"] == 8
        assert state.network.plan.weight_bits["stages.1.0.conv1"] == 4


@pytest.mark.parametrize("name", sorted(SHORT))
def test_procedure_ends_in_a_checkpoint_like_any_other(
    name: str, baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    key = {"agp": "final_sparsity"}.get(name, "sparsity")
    entries: list[dict[str, Any]] = [{"op_types": ["Conv2d"], **({} if name == "amc" else {key: 0.4})}]
    state, _, _ = made(baseline, task, profile, name, entries)
    now, base = state.metrics.cost, baseline.metrics.cost
    assert now.memory_bits < 0.8 * base.memory_bits or now.macs < 0.8 * base.macs
    checkpoints.write(tmp_path, state, checkpoints.record_of(state, task, profile))
    loaded, _ = checkpoints.load(tmp_path)
    x = task.example_input()
    with torch.no_grad():
        assert torch.equal(loaded.network(x), state.network(x))


@pytest.mark.parametrize("name", ["agp", "admm", "sensitivity"])
def test_procedure_takes_either_elements_or_channels(
    name: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    key = {"agp": "final_sparsity"}.get(name, "sparsity")
    other = {"pruning_algorithm": "l1"} if name == "agp" else {"base_algo": "level"}
    state, _, _ = made(baseline, task, profile, name, [{"op_types": ["Conv2d"], key: 0.4}], **other)
    assert ("P" if name == "agp" else "S") in state.chain.word
    assert "S" not in state.chain.word or "P" not in state.chain.word


def test_agp_rises_to_its_final_share(baseline: CompressionState, task: Task, profile: Profile) -> None:
    entries = [{"final_sparsity": 0.8, "op_names": ["stages.2.0.conv1"]}]
    state, _, _ = made(baseline, task, profile, "agp", entries, end_epoch=4)
    asked = [step.decision.rule.ratios["stages.2.0.conv1"] for step in state.steps if step.link.letter == "S"]
    assert asked == sorted(asked)
    assert len(asked) > 1
    assert asked[-1] == pytest.approx(0.8)


def test_lottery_ticket_goes_back_to_the_first_weights(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    entries = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    still = override(profile, {"train": {"epochs": 0}})
    compression = grammar.read(
        {"compression": {"compressor": "lottery", "config_list": entries, "prune_iterations": 1}}
    )
    selection = select(compression.experiment.compression.config_list, baseline.network.backbone)
    run = Run(baseline, task, still, selection, compression.experiment.compression.settings)
    state = compressors.compress("lottery-ticket", run)
    first = task.build(profile.seed)
    name = "stages.1.0.conv1"
    assert torch.equal(state.network.layers[name].weight, first.get_submodule(name).weight)  # type: ignore[arg-type]
    assert sparsity_of(state.network.masks.get(name).numpy().astype("float32")).zero_fraction == pytest.approx(
        0.5, abs=0.01
    )  # type: ignore[union-attr]


def test_same_seed_gives_the_same_state(baseline: CompressionState, task: Task, profile: Profile) -> None:
    entries = [{"sparsity": 0.4, "op_types": ["Conv2d"]}]
    keys = {made(baseline, task, profile, "simulated-annealing", entries)[0].key for _ in range(2)}
    assert len(keys) == 1


SIZES = {"a": 100, "b": 300, "c": 50}


def test_shares_are_moved_to_a_target_within_their_limits() -> None:
    moved = shifted_to({"a": 0.9, "b": 0.1, "c": 0.0}, SIZES, 0.5)
    assert overall(moved, SIZES) == pytest.approx(0.5)
    assert all(0 <= share <= 0.95 for share in moved.values())
    assert moved["a"] > moved["b"] > moved["c"]


def test_shares_are_scaled_to_a_target() -> None:
    scaled = scaled_to({"a": 0.8, "b": 0.4, "c": 0.0}, SIZES, 0.3)
    assert overall(scaled, SIZES) == pytest.approx(0.3)
    assert scaled["a"] == pytest.approx(2 * scaled["b"])
    assert scaled["c"] == 0.0


def test_macs_model_agrees_with_the_network_that_is_cut(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    model = MacsModel.of(baseline.network)
    assert model.total({}) == baseline.metrics.cost.macs
    state, _, _ = made(baseline, task, profile, "l1", [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    gone = {g.root: 0.5 for g in channel_groups.groups(baseline.network)}
    assert model.total(gone) == pytest.approx(state.metrics.cost.macs, rel=1e-6)


def test_amc_keeps_within_its_budget(baseline: CompressionState) -> None:
    model = MacsModel.of(baseline.network)
    gone = within_budget(dict.fromkeys(model.widths, 0.1), model, 0.5 * model.total({}), 0.8)
    assert model.total(gone) <= 0.5 * model.total({}) * 1.001
    assert max(gone.values()) <= 0.8


def test_amc_refuses_bounds_in_the_wrong_order(baseline: CompressionState, task: Task, profile: Profile) -> None:
    with pytest.raises(UsageError, match=r"lbound 0\.5 is above rbound 0\.3"):
        made(baseline, task, profile, "amc", [{"op_types": ["Conv2d"]}], lbound=0.5, rbound=0.3)


def test_amc_without_a_lower_bound_leaves_a_channel(baseline: CompressionState, task: Task, profile: Profile) -> None:
    settings = {"lbound": 0.0, "flops_ratio": 0.001, "train_episode": 1}
    state = made(baseline, task, profile, "amc", [{"op_types": ["Conv2d"]}], **settings)[0]
    assert min(layer.out_channels for layer in state.network.layers.values() if hasattr(layer, "out_channels")) == 1


def test_elements_of_a_convolution_in_groups_are_not_passed_over_in_silence(task: Task, profile: Profile) -> None:
    mobile = replace(task, spec=replace(task.spec, name="mobilenet_v2", width=0.25))
    state = initial_state(plain_network(mobile, profile), mobile)
    depthwise = next(name for name, layer in state.network.layers.items() if getattr(layer, "groups", 1) > 1)
    with pytest.raises(UsageError, match=f"'{depthwise}' is a convolution in groups"):
        made(state, mobile, profile, "level", [{"op_names": [depthwise], "sparsity": 0.3}])


@pytest.mark.parametrize(("bits", "said"), [(4, "8 bits"), ({"weight": 4, "input": 4}, "4 bits")])
def test_bits_of_activations_are_said_as_they_are(
    bits: Any, said: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    entries = [{"op_types": ["Conv2d"], "quant_types": ["weight"], "quant_bits": bits}]
    assert any(f"activations get {said}" in line for line in made(baseline, task, profile, "naive", entries)[2])


def test_annealing_finds_the_layer_that_matters() -> None:
    options = {"start": 100.0, "stop": 1.0, "cooling": 0.9, "perturbation": 0.35}
    found = annealed(lambda shares: 1 - shares["a"], SIZES, 0.4, random.Random(0), **options)
    assert overall(found, SIZES) == pytest.approx(0.4)
    assert found["a"] < 0.2


def test_tolerance_is_the_largest_harmless_share() -> None:
    table = {"a": {0.1: 0.95, 0.5: 0.93, 0.9: 0.4}, "b": {0.1: 0.5}}
    assert tolerances(table, 0.95, 0.05) == {"a": 0.5, "b": 0.05}


def test_every_word_of_the_vocabulary_is_a_compressor() -> None:
    assert {words.name for words in vocabulary.COMPRESSORS} == set(compressors.COMPRESSORS)
