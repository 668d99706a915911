"""S: 2:4 lives through every order of letters, masks follow cuts, and every refusal says why."""

from pathlib import Path

import pytest
import torch
from conftest import follow, make_profile

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.commands.show import show
from nacdeploy.latencies.layers import layers_of
from nacdeploy.network.attachments import fake_quant
from nacdeploy.network.attachments.sparsity import Sparsity, sparsity_of
from nacdeploy.network.network import Network, masked_weight
from nacdeploy.profile import Profile
from nacdeploy.reports.layers import layer_changes
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.sparsify.operator import SparsifyDecision
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.strategies.steps import follow as transfer
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.task import Task


def integers(network: Network) -> dict[str, torch.Tensor]:
    """The integers (127 at most) of the masked layers, as they would be exported."""
    layers = {name: network.backbone.get_submodule(name) for name in network.masks.layers}
    return {n: fake_quant.integers(masked_weight(network, n, layer), 127)[0] for n, layer in layers.items()}


def decision_of(state: CompressionState) -> SparsifyDecision:
    (found,) = [step.decision for step in state.steps if step.link.letter == "S"]
    return found


@pytest.mark.parametrize("word", ["SF", "SPF", "SQF", "QSF", "PSF", "SPQF", "SFPP", "QSPQ"])
def test_two_four_holds_in_the_integers(word: str, baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.1, "multiple": 1})
    state = follow(baseline, word, task, profile)
    shown = {name: sparsity_of(q.numpy()) for name, q in integers(state.network).items()}
    assert len(shown) == 9
    assert all(found.is_two_four for found in shown.values())
    assert all(found.zero_fraction >= 0.4 for found in shown.values())


def test_training_changes_what_is_kept_alone(baseline: CompressionState, task: Task, profile: Profile) -> None:
    before, after = (follow(baseline, word, task, profile).network for word in ("S", "SF"))
    changed = [not torch.equal(q, integers(after)[name]) for name, q in integers(before).items()]
    assert any(changed)
    for name in before.masks.layers:
        assert torch.equal(before.masks.get(name), after.masks.get(name))  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["element", "kernel", "filter"])
def test_masks_for_storage_are_cut_with_their_weights(pattern: str, baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.3, "scope": "uniform"}, sparsify={"pattern": pattern, "ratio": 0.25})
    before = follow(baseline, "S", task, profile)
    after = follow(before, "P", task, profile)
    expected = {name: before.network.masks.get(name) for name in before.network.masks.layers}
    for item in after.steps[-1].decision.cut.slices:
        name = item.tensor.removeprefix("backbone.").removesuffix(".weight")
        if name in expected:
            expected[name] = expected[name].index_select(item.axis, torch.tensor(item.kept))  # type: ignore[union-attr]
    for name, weight in weights(after.network).items():
        assert torch.equal(after.network.masks.get(name), expected[name])  # type: ignore[arg-type]
        assert expected[name].shape == weight.shape  # type: ignore[union-attr]


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: network.backbone.get_submodule(name).weight for name in network.masks.layers}  # type: ignore[misc]


def test_prune_takes_masked_filters_first(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "S(pattern=filter,ratio=0.25)", task, make_profile())
    found = channel_groups.groups(state.network)
    dead = {group.root: group.n_dead for group in found}
    inside = {root: n for root, n in dead.items() if root.endswith("conv1")}
    assert inside == {"stages.0.0.conv1": 2, "stages.1.0.conv1": 4, "stages.2.0.conv1": 8}
    n_dead, n_channels = sum(dead.values()), sum(group.n_channels for group in found)
    profile = make_profile(prune={"ratio": n_dead / n_channels, "multiple": 1})
    assert follow(state, "P", task, profile).steps[-1].decision.removed == {k: n for k, n in dead.items() if n}


def test_order_of_the_channels_keeps_more_magnitude(baseline: CompressionState, task: Task, profile: Profile) -> None:
    found = decision_of(follow(baseline, "S", task, profile))
    assert found.permutation.slices
    assert found.kept_fraction > found.unpermuted_kept_fraction
    plain = decision_of(follow(baseline, "S(permute=false)", task, profile))
    assert not plain.permutation.slices
    assert plain.kept_fraction == found.unpermuted_kept_fraction


def test_memory_falls_by_what_is_not_stored(baseline: CompressionState, task: Task, profile: Profile) -> None:
    state = follow(baseline, "S", task, profile)
    n_masked = sum(weight.numel() for weight in weights(state.network).values())
    assert baseline.metrics.cost.memory_bits - state.metrics.cost.memory_bits == n_masked * 32 - n_masked // 2 * 34
    assert state.metrics.cost.macs == baseline.metrics.cost.macs


def test_quantized_memory_counts_narrow_values(baseline: CompressionState, task: Task, profile: Profile) -> None:
    dense, sparse = (follow(baseline, word, task, profile) for word in ("Q", "QS"))
    n_masked = sum(weight.numel() for weight in weights(sparse.network).values())
    saved = dense.metrics.cost.memory_bits - sparse.metrics.cost.memory_bits
    assert saved == n_masked * 8 - n_masked // 2 * 10


@pytest.mark.parametrize(
    ("word", "again", "said"),
    [
        ("S", "S", "sparse by 2:4 already"),
        ("S", "S(pattern=element,ratio=0.8)", "element would take its place"),
        ("S(pattern=element)", "S(pattern=element,ratio=0.4)", "with a share of 0.5"),
        (
            "",
            "S(min_channels=1000)",
            r"no layer takes 2:4: stem\.0 \(fewer than 4.*\), .* and 6 more \(fewer than 1000",
        ),
    ],
)
def test_refusal_says_why(
    word: str, again: str, said: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    state = follow(baseline, word, task, profile)
    with pytest.raises(RefusedError, match=said):
        follow(state, again, task, profile)


def zero_shares(state: CompressionState) -> dict[str, float]:
    masks = state.network.masks
    return {name: float((~masks.get(name)).double().mean()) for name in masks.layers}  # type: ignore[operator]


def test_list_of_shares_gives_one_to_each_s_and_zeros_stay_zeros(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(sparsify={"pattern": "element", "ratio": [0.5, 0.8]})
    first = follow(baseline, "SF", task, profile)
    second = follow(first, "SF", task, profile)
    assert set(zero_shares(first).values()) == {0.5}
    assert all(share == pytest.approx(0.8, abs=0.01) for share in zero_shares(second).values())
    for name in first.network.masks.layers:
        assert not (second.network.masks.get(name) & ~first.network.masks.get(name)).any()  # type: ignore[operator]
    same = follow(baseline, "S(pattern=element,ratio=0.5)FS(pattern=element,ratio=0.8)F", task, make_profile())
    assert same.key == second.key
    with pytest.raises(RefusedError, match=r"with a share of 0\.8"):
        follow(second, "S", task, profile)


def test_ratios_mask_the_named_layers_alone_by_stages(baseline: CompressionState, task: Task) -> None:
    ratios = {"stages.0.0.conv1": [0.25, 0.5], "classifier": [0.0, 0.5], "stages.1.0.conv1": 0.5}
    profile = make_profile(sparsify={"pattern": "element", "ratios": ratios})
    first, second = (follow(baseline, word, task, profile) for word in ("S", "SS"))
    assert zero_shares(first) == {"stages.0.0.conv1": 0.25, "stages.1.0.conv1": 0.5}
    assert zero_shares(second) == {"stages.0.0.conv1": 0.5, "stages.1.0.conv1": 0.5, "classifier": 0.5}
    explained = letters.make(second.steps[-1].link, profile).explain(second.steps[-1].decision)
    assert explained.startswith("element (share 0.5) in 3 layers")
    assert "not in sparsify.ratios" in explained


def test_patterns_by_layer_are_counted_by_layer(baseline: CompressionState, task: Task) -> None:
    table = {"pattern": "element", "ratio": 0.5, "patterns": {"stages.2.0.conv2": "filter"}}
    state = follow(baseline, "S", task, make_profile(sparsify=table))
    kept = state.network.masks.get("stages.2.0.conv2")
    assert (kept.flatten(1).any(1) == kept.flatten(1).all(1)).all()  # type: ignore[union-attr]
    plain = follow(baseline, "S(pattern=element)", task, make_profile())
    saved = plain.metrics.cost.memory_bits - state.metrics.cost.memory_bits
    assert saved == kept.numel() - kept.shape[0]  # type: ignore[union-attr]
    with pytest.raises(RefusedError, match="sparse by filter already, and element would take its place"):
        follow(state, "S(pattern=element,ratio=0.8)", task, make_profile())
    with pytest.raises(RefusedError, match=r"sparse by element and filter already, with a share of 0\.5"):
        follow(state, "S", task, make_profile(sparsify=table))


def test_two_patterns_rounded_up_are_counted_stored_and_timed_as_they_are(
    baseline: CompressionState, task: Task, tmp_path: Path
) -> None:
    """576 elements: 172.8 of them; 1024 kernels of 9: 307.2 of them; 32 bits a value, one more for each element or
    kernel."""
    table = {
        "pattern": "element",
        "ratios": {"stages.0.0.conv1": 0.3, "stages.2.0.conv2": 0.3},
        "patterns": {"stages.2.0.conv2": "kernel"},
        "rounding": "ceil",
    }
    profile = make_profile(sparsify=table)
    state = follow(baseline, "S", task, profile)
    assert state.metrics.cost.memory_bits == baseline.metrics.cost.memory_bits - 173 * 32 + 576 - 308 * 9 * 32 + 1024
    checkpoint.write(tmp_path, state, checkpoint.record_of(state, task, profile))
    network = checkpoint.load(tmp_path)[0].network
    for name in state.network.masks.layers:
        assert torch.equal(network.masks.get(name), state.network.masks.get(name))  # type: ignore[arg-type]
    patterns = {layer.pattern for layer in layers_of(network)}
    assert patterns == {"element", "kernel", "dense"}
    shown = {change.layer: change.what.split()[-1] for change in layer_changes(baseline.network, network)}
    assert (shown["stages.0.0.conv1"], shown["stages.2.0.conv2"]) == ("element", "kernel")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"pattern": "element", "ratios": {"stages.0.0.conv3": 0.5}},
            r"sparsify.ratios: no layer .*did you mean 'stages",
        ),
        ({"pattern": "element", "patterns": {"clasifier": "element"}}, "did you mean 'classifier'"),
        ({"ratios": {"classifier": 0.5}}, "2:4 is always one half: 'ratios'"),
    ],
)
def test_table_that_cannot_hold_is_refused_by_name(
    table: dict[str, object], said: str, baseline: CompressionState, task: Task
) -> None:
    with pytest.raises(UsageError, match=said):
        follow(baseline, "S", task, make_profile(sparsify=table))


@pytest.mark.parametrize("shares", [1.0, -0.1, [], [0.5, 1.0]])
def test_share_outside_its_range_is_refused_by_the_profile(shares: object) -> None:
    for table in ({"ratio": shares}, {"ratios": {"classifier": shares}}):
        with pytest.raises(UsageError, match=r"sparsify\.ratio"):
            make_profile(sparsify={"pattern": "element", **table})


def test_higher_share_of_the_same_pattern_goes_on(baseline: CompressionState, task: Task, profile: Profile) -> None:
    word = "S(pattern=element,ratio=0.3)S(pattern=element,ratio=0.6)"
    state = follow(baseline, word, task, profile)
    assert state.network.sparsity == Sparsity("element", 0.6, every_convolution=True)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("S(ratio=0.8)", "2:4 is always one half"),
        ("S(pattern=element,ratio=1)", r"S\(ratio=1\): Input should be less than 1"),
        ("S(pattern=element,ratio=-0.1)", r"S\(ratio=-0.1\): Input should be greater than or equal to 0"),
        ("S(pattern=1:4)", r"S\(pattern=1:4\): Input should be '2:4', 'element', 'kernel' or 'filter'"),
        ("S(shuffle=true)", "unknown parameter 'shuffle' of S"),
    ],
)
def test_wrong_parameter_is_named(word: str, said: str, profile: Profile) -> None:
    with pytest.raises(UsageError, match=said):
        letters.check(Chain.parse(word), profile)


def test_dry_run_shows_the_stored_bits(baseline: CompressionState, task: Task, profile: Profile) -> None:
    key = baseline.key
    rows = transfer.previews(Chain.parse("SPQS"), baseline, task, profile, skip_refused=True)
    assert [row.refused is None for row in rows] == [True, True, True, False]
    assert rows[0].memory_bits == follow(baseline, "S", task, profile).metrics.cost.memory_bits
    assert rows[0].memory_bits > rows[1].memory_bits > rows[2].memory_bits
    assert baseline.key == key


def test_show_explains_what_is_sparse_and_what_is_dense(
    baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    state = follow(baseline, "QS", task, profile)
    checkpoint.write(tmp_path, state, checkpoint.record_of(state, task, profile))
    (line,) = [line for line in show(str(tmp_path)).lines if line.startswith("S:")]
    assert line.startswith("S: 2:4 in 9 layers, 7")
    assert "without another order of the channels" in line
    assert line.endswith("; dense: stem.0 (fewer than 4 input channels)")


def test_settings_of_a_strategy_bring_the_table(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "S", task, make_profile(sparsify={"pattern": "kernel", "ratio": 0.25}))
    assert state.network.sparsity == Sparsity("kernel", 0.25, every_convolution=True)
