"""Files that torch cannot hold as a whole through `optimize`: what comes out stands in the place of what went in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import TINY, lay_out, refused_line, run, succeed
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

import nacdeploy
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.models.from_onnx.running import Part

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
DRAW = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return (DRAW.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def images(n: int) -> Any:
    return np.repeat(np.repeat(DRAW.random((n, 3, 4, 4), dtype=np.float32), 4, 2), 4, 3)


def scaled(by: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"{by}_y", FLOAT, None)
    return helper.make_graph([make_node("Mul", ["f", by], [f"{by}_y"])], by, [], [out])


def network() -> onnx.ModelProto:
    """Return convolutions, an LSTM behind them whose state goes in and out, and a rate that decides what runs."""
    branches = {
        name: helper.make_graph(
            [make_node("Mul", ["f", value], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)],
        )
        for name, value in (("then_branch", "one"), ("else_branch", "two"))
    }
    nodes = [
        make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make_node("Relu", ["c1"], ["r1"], "relu1"),
        make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        make_node("Relu", ["c2"], ["r2"], "relu2"),
        make_node("Conv", ["r2", "w3"], ["f"], "conv3", pads=[1, 1, 1, 1]),
        make_node("Equal", ["rate", "sixteen"], ["is_16"], "is_16"),
        make_node("If", ["is_16"], ["g"], "if", **branches),
        make_node("ReduceMean", ["g"], ["m"], "mean", axes=[3], keepdims=0),
        make_node("Transpose", ["m"], ["seq"], "seq", perm=[2, 0, 1]),
        make_node("LSTM", ["seq", "W", "R", "", "", "h", "c"], ["", "hn", "cn"], "lstm", hidden_size=5),
        make_node("Squeeze", ["hn", "zero"], ["y"], "last"),
    ]
    constants = {
        "w1": weights(32, 3, 3, 3),
        "w2": weights(32, 32, 3, 3),
        "w3": weights(32, 32, 3, 3),
        "W": weights(1, 20, 32),
        "R": weights(1, 20, 5),
        "zero": np.array([0]),
        "sixteen": np.array(16),
        "one": np.float32(1),
        "two": np.float32(2),
    }
    state = [(name, FLOAT, [1, "batch", 5]) for name in ("h", "c")]
    inputs = [("x", FLOAT, ["batch", 3, "height", "width"]), *state, ("rate", INT64, [])]
    outputs = [("y", FLOAT, ["batch", 5]), ("hn", FLOAT, [1, "batch", 5]), ("cn", FLOAT, [1, "batch", 5])]
    values = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", *values, tensors), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    made.metadata_props.add(key="classes", value="a,b")
    made.graph.input[0].doc_string = "pixels between 0 and 1"
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lay_out(tmp_path_factory.mktemp("regions"), TINY)
    onnx.save(network(), made / "net.onnx")
    state = DRAW.normal(size=(24, 1, 1, 5)).astype(np.float32)
    np.savez(made / "calls.npz", x=images(24), h=state, rate=np.array(16))
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def decibels(wanted: Any, found: Any) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / max(1e-30, np.square(wanted - found).sum())))


def test_recurrent_file_keeps_its_state_over_a_sequence_of_calls(here: Path) -> None:
    before = Path("net.onnx").read_bytes()
    done = succeed(
        "optimize", "net.onnx", "--data", "calls.npz", "--profile", "tiny.toml", "--out", "fast", "--min-snr", "25"
    )
    assert Path("net.onnx").read_bytes() == before
    assert "'rate' is 16 at every call, and is fixed at that" in done.err and "'c' is zeros" in done.err
    assert "lstm (LSTM)" in done.out and "file: fast/whole.onnx" in done.out
    manifest = json.loads(Path("fast/manifest.json").read_text())
    assert manifest["whole_file"] == "whole.onnx" and list(manifest["kept"]) == ["lstm (LSTM)"]
    float_file, whole = Part(Path("net.onnx"), "net"), Part(Path("fast/whole.onnx"), "whole")
    made, file = onnx.load("fast/whole.onnx"), onnx.load("net.onnx")
    assert made.graph.input == file.graph.input and made.graph.output == file.graph.output
    assert made.metadata_props == file.metadata_props
    for rate, batch in ((16, 1), (16, 3), (8, 1)):
        states = [{"h": np.zeros((1, batch, 5)), "c": np.zeros((1, batch, 5))}] * 2
        answers: list[list[Any]] = [[], []]
        for _ in range(20):
            x = images(batch)
            for number, part in enumerate((float_file, whole)):
                found = part.run({"x": x, "rate": np.array(rate), **states[number]})
                states[number] = {"h": found["hn"], "c": found["cn"]}
                answers[number].append(found["y"])
        assert decibels(*map(np.array, answers)) > (20 if rate == 16 else 100)
    large = {"x": DRAW.random((2, 3, 24, 40)), "h": np.zeros((1, 2, 5)), "c": np.zeros((1, 2, 5)), "rate": np.array(16)}
    assert decibels(float_file.run(large)["y"], whole.run(large)["y"]) > 100


def test_excluded_nodes_and_fixed_inputs_are_named_in_python_too(here: Path) -> None:
    found = nacdeploy.optimize(
        "net.onnx", data="calls.npz", profile="tiny.toml", out="apart", exclude=["conv3"], fix=["rate=8"], wandb=False
    )
    assert found.kept == {"conv3 (Conv)": "excluded by 'conv3'", "lstm (LSTM)": "torch does not hold it"}
    assert any("made for rate = 8" in note for note in found.notes)
    call = {"x": images(1), "h": np.zeros((1, 1, 5)), "c": np.zeros((1, 1, 5)), "rate": np.array(8)}
    wanted, whole = (Part(file, "part").run(call)["y"] for file in (Path("net.onnx"), found.file))
    assert decibels(wanted, whole) > 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--exclude", "head/*"), "has no node 'head/*' to exclude"),
        (("--fix", "rate"), "write INPUT=VALUE"),
        (("--fix", "sr=16"), "has no input 'sr' to fix; it takes c, h, rate, x"),
        (("--data", "few.npz"), "has no array 'rate'"),
        (("--data", "odd.npz"), "'h' has shape (24, 2, 2, 5); needed: (24, 1, 1, 5), a row for each call"),
        (("--data", "text.npz"), "'rate' holds torch.float32; the network takes int64"),
        (("--data", "nan.npz"), "'x' holds values that are no numbers"),
        (("--data", "complex.npz"), "'x' holds torch.complex128; the network takes float32"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    here: Path, arguments: tuple[str, ...], said: str
) -> None:
    np.savez("few.npz", x=images(24))
    np.savez("odd.npz", x=images(24), h=np.zeros((24, 2, 2, 5), np.float32), rate=np.array(16))
    np.savez("text.npz", x=images(24), rate=np.float32(16))
    np.savez("complex.npz", x=images(24).astype(complex), rate=np.array(16))
    np.savez("nan.npz", x=images(24) * np.nan, rate=np.array(16))
    given = ("--data", "calls.npz", *arguments) if "--data" not in arguments else arguments
    line = refused_line(run("optimize", "net.onnx", *given, "--profile", "tiny.toml", "--out", "never"))
    assert said in line and not Path("never").exists()


def uneven() -> onnx.ModelProto:
    """Return convolutions of TensorFlow's padding, which is uneven where they stride."""
    nodes = [
        make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        make_node("Relu", ["c1"], ["r1"], "relu1"),
        make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[0, 0, 1, 1], strides=[2, 2]),
        make_node("Relu", ["c2"], ["r2"], "relu2"),
        make_node("Conv", ["r2", "w3"], ["y"], "conv3"),
    ]
    constants = {"w1": weights(32, 3, 3, 3), "w2": weights(32, 32, 3, 3), "w3": weights(32, 32, 1, 1)}
    values = [
        [helper.make_tensor_value_info(name, FLOAT, ["n", *shape])] for name, shape in (("x", (3, 16, 16)), ("y", ()))
    ]
    values[1] = [helper.make_tensor_value_info("y", FLOAT, ["n", 32, 8, 8])]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", *values, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("target", "exclude"), [("openvino", ()), ("ort", ("conv2",)), ("openvino", ("conv2",))])
def test_uneven_padding_and_a_layer_left_in_the_middle_reach_every_runtime(
    tmp_path: Path, target: str, exclude: tuple[str, ...]
) -> None:
    lay_out(tmp_path)
    onnx.save(uneven(), tmp_path / "net.onnx")
    np.savez(tmp_path / "inputs.npz", x=images(24))
    made = nacdeploy.optimize(
        tmp_path / "net.onnx",
        data=str(tmp_path / "inputs.npz"),
        target=target,
        exclude=exclude,
        out=tmp_path / "fast",
        runs=tmp_path / "runs",
        wandb=False,
    )
    lowering = json.loads((made.artifact / "lowering.json").read_text())
    held = {row["layer"]: row["held"] for row in lowering}
    assert held["conv1"] == "int8" or "conv1" in made.in_float
    assert not exclude or "conv2" not in held
    x = images(3)
    (found,) = (
        OpenVinoRunner(made.artifact / "model.xml").run(x) if target == "openvino" else OnnxRunner(made.file).run(x)
    )
    assert decibels(Part(tmp_path / "net.onnx", "net").run({"x": x})["y"], found) > 20
