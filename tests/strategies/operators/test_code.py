"""C: shared values survive training, file and export; after it only F may follow."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import follow, make_profile
from onnx import numpy_helper

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.coding import container, files
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.weight_sharing import Codebook, Sharing, share
from nacdeploy.network.network import Network, masked_weight
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.task import Task


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: network.sharing.weight(name).detach() for name in network.sharing.layers}


@pytest.mark.parametrize(("word", "n_values"), [("C", 16), ("C(bits=2)", 4), ("C(method=linear,bits=3)", 8)])
def test_weights_take_few_values(
    word: str, n_values: int, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    network = follow(baseline, word, task, profile).network
    assert all(len(weight.unique()) <= n_values for weight in weights(network).values())
    assert len(network.sharing.layers) == 10


def test_training_moves_values_and_no_label(baseline: CompressionState, task: Task) -> None:
    recipe = {"epochs": 8, "optimizer": "adamw", "learning_rate": 1e-2, "early_stop_patience": None}
    profile = make_profile(finetune=recipe)
    before = follow(baseline, "C(bits=2)", task, profile)
    after = follow(before, "F", task, profile)
    moved = []
    for name in before.network.sharing.layers:
        was, now = (state.network.sharing.of(name) for state in (before, after))
        assert torch.equal(was.labels, now.labels)
        moved.append(not torch.equal(was.centroids, now.centroids))
        layer = after.network.backbone.get_submodule(name)
        assert torch.equal(layer.weight, after.network.sharing.weight(name))  # type: ignore[arg-type]
    assert all(moved)
    assert after.metrics.score > before.metrics.score


def test_gradient_of_a_value_is_the_mean_of_its_members() -> None:
    weight = torch.tensor([[1.0, 1.1, 0.0, 5.0]])
    book = Codebook("kmeans", 2, 2)
    sharing = Sharing({"a": book}, {"a": share(weight, book)})
    assert sharing.weight("a").flatten().tolist() == pytest.approx([1.05, 1.05, 0.0, 5.0])
    (sharing.weight("a") * torch.tensor([[2.0, 4.0, 100.0, 7.0]])).sum().backward()
    assert sharing.of("a").centroids.grad.tolist() == [3.0, 7.0]  # type: ignore[union-attr]


def test_fixed_point_stops_at_the_lowest_code() -> None:
    weight = torch.tensor([-9.0, -1.0, -0.99, 0.3, 0.8, 9.0]).reshape(1, -1)
    book = Codebook("fixed_point", 4, 6, int_bits=0, limits=(-8, 7), n_scales=1)
    found = Sharing({"a": book}, {"a": share(weight, book)}).weight("a")
    assert found.tolist() == [[-1.0, -1.0, -1.0, 0.25, 0.75, 0.875]]


def test_masked_weights_stay_zero(baseline: CompressionState, task: Task, profile: Profile) -> None:
    word = "S(pattern=element,ratio=0.8)C(fix_zeros=false)F"
    network = follow(baseline, word, task, profile).network
    for name in network.masks.layers:
        assert not network.sharing.weight(name)[~network.masks.get(name)].any()  # type: ignore[index]


def test_element_masks_follow_both_axes_into_the_codes(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.3, "scope": "uniform"}, sparsify={"pattern": "element", "ratio": 0.6})
    network = follow(baseline, "SPC", task, profile).network
    shapes = {name: tuple(network.sharing.of(name).labels.shape) for name in network.sharing.layers}
    assert shapes == {n: tuple(network.backbone.get_submodule(n).weight.shape) for n in shapes}  # type: ignore[union-attr]
    zeros = [float((weights(network)[name] == 0).float().mean()) for name in network.masks.layers]
    assert min(zeros) > 0.4


@pytest.mark.parametrize("word", ["QCF", "SQC", "QC(method=fixed_point)"])
def test_exported_integers_are_the_coded_ones(
    word: str, baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    state = follow(baseline, word, task, profile)
    (tmp_path / "model.onnx").write_bytes(to_onnx(state.network, 20).model)
    container.write(tmp_path / "model.nac", files.cut(tmp_path / "model.onnx"))
    with container.Reader(tmp_path / "model.nac") as reader:
        (file,) = reader.header.files
        decoded = {row.name: (row, reader.tensor(file, row.name)) for row in file.tensors}
        assert reader.file(file) == (tmp_path / "model.onnx").read_bytes()
    graph = onnx.load(tmp_path / "model.onnx").graph
    held = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("weight_q")}
    assert len(held) == len(state.network.plan.weight_bits)
    for name, integers in held.items():
        layer = name.removeprefix("layers.").removesuffix(".weight_q")
        coded, _ = state.network.sharing.integers(layer)  # type: ignore[misc]
        assert np.array_equal(np.abs(integers), coded.abs().numpy())  # a folded batch norm moves signs into them
        if name in decoded:
            row, data = decoded[name]
            assert np.array_equal(np.frombuffer(data, np.int8).reshape(row.shape), integers)


@pytest.mark.parametrize("word", ["CF", "C(method=fixed_point,bits=6)"])
def test_exported_floats_are_the_shared_ones(
    word: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    network = follow(baseline, word, task, profile).network
    graph = onnx.load_from_string(to_onnx(network, 20).model).graph
    held = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for name, weight in weights(network).items():
        assert np.array_equal(held[f"layers.{name}.weight"], weight.numpy())


def test_simulated_weights_are_integers_times_scales(baseline: CompressionState, task: Task, profile: Profile) -> None:
    network = follow(baseline, "QCF", task, profile).network
    for name, weight in weights(network).items():
        integers, scales = network.sharing.integers(name)  # type: ignore[misc]
        assert torch.equal(weight, integers.float() * scales.reshape(-1, *[1] * (weight.dim() - 1)))
        assert len(integers.unique()) <= 16


def test_integers_stay_where_sharing_saves_nothing(baseline: CompressionState, task: Task, profile: Profile) -> None:
    books = follow(baseline, "QQC(bits=4)", task, profile).steps[-1].decision.books  # 4-bit integers already
    assert {book.method for book in books.values()} == {"integers"}
    assert {b.method for b in follow(baseline, "QC", task, profile).steps[-1].decision.books.values()} == {"kmeans"}


def test_narrower_grid_refuses_shared_integers(baseline: CompressionState, task: Task, profile: Profile) -> None:
    wide = follow(baseline, "", task, profile).network
    wide.set_grid(grid_named("ort-8bit"))
    state = follow(CompressionState(wide, baseline.metrics, baseline.baseline), "QC", task, profile)
    with pytest.raises(RefusedError, match=r"shares integers up to 127 \(C\), and the grid ort takes 63"):
        state.network.set_grid(grid_named("ort"))
    baseline.network.set_grid(grid_named("ort"))


@pytest.mark.parametrize("letter", ["P", "E", "Q", "S", "C"])
@pytest.mark.parametrize("word", ["C", "CF"])
def test_nothing_but_finetuning_follows(
    letter: str, word: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    state = follow(baseline, word, task, profile)
    with pytest.raises(RefusedError, match=r"the weights are shared \(C\) and only F may follow"):
        follow(state, letter, task, profile)
    assert letters.refusal(letters.make(Link("F"), profile), state) is None


def test_layers_are_shared_as_the_table_says(baseline: CompressionState, task: Task) -> None:
    layers = {"stages.2.0.conv1": "linear:3", "stem.0": "fixed_point:8:0"}
    profile = make_profile(code={"layers": layers, "exclude": ["stages.0"], "bits": 2})
    books = follow(baseline, "C", task, profile).steps[-1].decision.books
    named = {name: (book.method, book.bits) for name, book in books.items()}
    assert named["stem.0"] == ("fixed_point", 8)
    assert named["stages.2.0.conv1"] == ("linear", 3)
    assert named["stages.1.0.conv1"] == ("kmeans", 2)
    assert not any(name.startswith("stages.0") for name in named)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"layers": {"stem.00": "kmeans:4"}}, r"names 'stem.00', which is no layer.*did you mean 'stem.0'"),
        ({"exclude": ["stem", "stages", "head", "classifier", "fc", "linear"]}, "no layer is left to share"),
    ],
)
def test_refusal_says_why(tables: dict[str, Any], said: str, baseline: CompressionState, task: Task) -> None:
    with pytest.raises(RefusedError, match=said):
        follow(baseline, "C", task, make_profile(code=tables))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("C(bits=0)", r"C\(bits=0\)"),
        ("C(method=median)", "should be 'kmeans', 'linear' or 'fixed_point'"),
        ("C(codes=plain)", "holds for every letter"),
        ("C(bit=4)", "unknown parameter 'bit' of C; did you mean 'bits'"),
    ],
)
def test_wrong_parameter_is_named(word: str, said: str, profile: Profile) -> None:
    with pytest.raises(UsageError, match=said):
        letters.check(Chain.parse(word), profile)


@pytest.mark.parametrize("text", ["kmeans", "kmeans:0", "kmeans:17", "mean:4", "linear:4:1", "fixed_point:a"])
def test_malformed_layer_entry_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=rf"'{text}' of a is none of kmeans:BITS"):
        make_profile(code={"layers": {"a": text}})


def test_unshared_layer_runs_as_it_did(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(code={"exclude": ["stem"]})
    network = follow(baseline, "C", task, profile).network
    stem = network.backbone.get_submodule("stem.0")
    assert masked_weight(network, "stem.0", stem) is stem.weight
    assert isinstance(stem.weight, torch.nn.Parameter)
