"""ONNX files as torch modules: whatever exporters write answers as it does in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError
from nacdeploy.base.precision import Grid
from nacdeploy.models import from_onnx, ports
from nacdeploy.models.from_onnx.graph import reading
from nacdeploy.models.from_onnx.sizes import ON_SIZES, Sizes
from nacdeploy.network.network import Network


class Views(nn.Module):
    """Shapes that are computed, as exporters trace them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = nn.functional.avg_pool2d(x, 2)
        return self.head(x.view(x.size(0), -1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(16, 48), nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out(torch.softmax(q @ k.transpose(1, 2) / 4.0, -1) @ v)


class Decoder(nn.Module):
    """What detectors and segmenters use: transposed convolutions, resizing, concatenation, slices, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2)
        self.norm, self.act = nn.BatchNorm2d(8), nn.PReLU(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        small = self.act(self.norm(self.down(x)))
        wide = nn.functional.interpolate(small, scale_factor=2, mode="nearest")
        smooth = nn.functional.interpolate(small, size=(8, 8), mode="bilinear", align_corners=False)
        both = torch.cat([self.up(small), wide, smooth, x[:, :2]], 1)
        return both.sigmoid(), nn.functional.hardswish(small).mean((2, 3)).clamp(-1, 1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "views": (Views, (3, 8, 8)),
    "attention": (Attention, (6, 16)),
    "decoder": (Decoder, (3, 8, 8)),
    "signals": (lambda: nn.Sequential(nn.Conv1d(2, 8, 5, 2), nn.ELU(), nn.MaxPool1d(2), nn.Flatten()), (2, 32)),
}


def written(folder: Path, name: str, opset: int, fixed: bool = False) -> Path:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network, path = make().eval(), folder / f"{name}.onnx"
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    axes = {} if fixed else {"x": {0: "n"}}
    example = torch.rand(1 if fixed else 2, *shape)
    torch.onnx.export(
        network, (example,), str(path), dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes
    )
    return path


def answers(path: Path, x: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x.numpy()}))


def as_list(found: Any) -> list[Any]:
    return [each.numpy() for each in ([found] if isinstance(found, Tensor) else found.values())]


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_module_answers_as_the_file_in_any_batch(tmp_path: Path, name: str, opset: int) -> None:
    path = written(tmp_path, name, opset)
    module = from_onnx.module(path)
    for n in (1, 3):
        x = torch.rand(n, *NETWORKS[name][1])
        with torch.no_grad():
            found = as_list(module(x))
        for one, other in zip(found, answers(path, x), strict=True):
            assert np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_module_is_captured_with_its_layers(tmp_path: Path, name: str) -> None:
    module = from_onnx.module(written(tmp_path, name, 17))
    x = torch.rand(2, *NETWORKS[name][1])
    found = ports.found(module, x, module.input_names)
    backbone = ports.ported(module, found)
    network = Network(backbone, Grid("ort", 8, ("conv",)), found.input_shape).eval()
    assert network.graph is not None, network.captured.why_not
    if name != "signals":
        assert network.layers
    with torch.no_grad():
        assert torch.allclose(network(x), backbone(x), atol=1e-5)


def test_file_for_one_image_takes_any_batch(tmp_path: Path) -> None:
    path = written(tmp_path, "views", 13, fixed=True)
    module, x = from_onnx.module(path), torch.rand(3, 3, 8, 8)
    assert module.batch == 1
    with torch.no_grad():
        found = module(x).numpy()
    assert np.allclose(found, np.concatenate([answers(path, x[i : i + 1])[0] for i in range(3)]), atol=1e-5)


class Windows(nn.Module):
    """Attention inside of windows: the first axis is that of all windows of all images."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inside = nn.Conv2d(3, 16, 4, 4), Attention()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        n, height, width, channels = x.shape
        parts = x.view(n, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        parts = self.inside(parts.reshape(-1, 16, channels))
        parts = parts.view(n, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        return parts.reshape(n, height, width, channels).mean((1, 2))


def test_windows_of_a_file_for_one_image_are_those_of_any_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "windows", (Windows, (3, 32, 32)))
    path = written(tmp_path, "windows", 17, fixed=True)
    module, x = from_onnx.module(path), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        found = module(x).numpy()
    assert np.allclose(found, np.concatenate([answers(path, x[i : i + 1])[0] for i in range(3)]), atol=1e-5)
    assert not from_onnx.parts(from_onnx.parsed(str(path))).is_cut


def test_reshape_by_sizes_of_the_batch_at_hand_is_no_reshape_of_the_file_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three images there are twelve windows: 12 x 1 x 4 numbers would also be as many as one image has."""
    monkeypatch.setattr(reading, "_simplified", lambda model: model)  # as where its library fails: sizes stay nodes
    nodes = [
        helper.make_node("Reshape", ["x", "windows"], ["parts"]),
        helper.make_node("Shape", ["parts"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["parts", "wanted"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["moved"]),
        helper.make_node("Reshape", ["moved", "images"], ["y"]),
    ]
    constants = {
        "windows": np.array([-1, 3, 4]),
        "first": np.array([0]),
        "rest": np.array([1, -1]),
        "w": np.random.rand(12, 5).astype(np.float32),
        "images": np.array([1, 4, 5]),
    }
    onnx.save(graph(nodes, [1, 12, 4], constants), tmp_path / "net.onnx")
    module, x = from_onnx.module(tmp_path / "net.onnx"), torch.rand(3, 12, 4)
    found = module(x).detach().numpy()
    wanted = np.concatenate([answers(tmp_path / "net.onnx", x[i : i + 1])[0] for i in range(3)])
    assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("fmod", "rest"), [(0, (2, -2, 1)), (1, (-1, 1, 1))])
def test_remainders_of_sizes_have_the_sign_that_is_asked_for(fmod: int, rest: tuple[int, ...]) -> None:
    assert ON_SIZES["Mod"](Sizes([-7, 7, 7]), Sizes([3, -3, 3]), fmod=fmod).values == rest


class HeadsInTheBatch(nn.Module):
    """A class token, and attention whose heads stand in the first axis, as older exporters write it."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.qkv = nn.Parameter(torch.rand(1, 1, 8)), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = torch.cat([self.token.expand(n, -1, -1), x], 1)
        length = x.shape[1]
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (each.view(n, length, 2, 4).transpose(1, 2).reshape(n * 2, length, 4) for each in (q, k, v))
        found = torch.softmax(q @ k.transpose(1, 2), -1) @ v
        return found.view(n, 2, -1, 4).transpose(1, 2).reshape(n, length, 8)


def test_batch_that_hides_in_an_axis_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "hidden", (HeadsInTheBatch, (5, 8)))
    path = written(tmp_path, "hidden", 14, fixed=True)
    assert not from_onnx.parts(from_onnx.parsed(str(path))).is_cut
    module, x = from_onnx.module(path), torch.rand(3, 5, 8)
    with torch.no_grad():
        found = module(x).numpy()
    assert np.allclose(found, np.concatenate([answers(path, x[i : i + 1])[0] for i in range(3)]), atol=1e-5)


def test_output_that_nothing_computes_is_one_line(tmp_path: Path) -> None:
    model = CASES["scaled products"][0]
    made = onnx.ModelProto.FromString(model.SerializeToString())
    made.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]))
    onnx.save(made, tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="output 'b' is an input or a constant of the graph"):
        from_onnx.module(tmp_path / "net.onnx")


def test_file_of_the_oldest_format_has_weights_that_are_no_inputs(tmp_path: Path) -> None:
    model = CASES["scaled products"][0]
    old = onnx.ModelProto.FromString(model.SerializeToString())
    old.ir_version = 3
    onnx.save(old, tmp_path / "old.onnx")
    x = torch.rand(2, 6)
    found = from_onnx.module(tmp_path / "old.onnx")(x).detach().numpy()
    assert np.allclose(found, answers(tmp_path / "old.onnx", x)[0], atol=1e-5)


def test_bias_behind_a_product_is_part_of_its_layer(tmp_path: Path) -> None:
    module = from_onnx.module(written(tmp_path, "attention", 17))
    layers = [each for each in module.modules() if isinstance(each, nn.Linear)]
    assert len(layers) == 2 and all(each.bias is not None for each in layers)


def graph(nodes: list[onnx.NodeProto], shape: list[Any], constants: dict[str, Any], opset: int = 17) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


CASES: dict[str, tuple[onnx.ModelProto, tuple[int, ...]]] = {
    "uneven padding": (
        graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], "c", pads=[0, 0, 1, 1], strides=[2, 2])],
            ["n", 2, 8, 8],
            {"w": np.random.rand(4, 2, 3, 3).astype(np.float32)},
        ),
        (2, 8, 8),
    ),
    "padding by the size": (
        graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], "c", auto_pad="SAME_UPPER", strides=[2, 2])],
            ["n", 2, 7, 7],
            {"w": np.random.rand(4, 2, 2, 2).astype(np.float32)},
        ),
        (2, 7, 7),
    ),
    "uneven pool": (
        graph(
            [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])],
            ["n", 2, 8, 8],
            {},
        ),
        (2, 8, 8),
    ),
    "uneven mean": (
        graph(
            [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[7, 7], pads=[0, 0, 1, 1])],
            ["n", 2, 6, 6],
            {},
        ),
        (2, 6, 6),
    ),
    "an older enlargement": (
        graph(
            [helper.make_node("Upsample", ["x", "s"], ["y"], mode="linear")],
            ["n", 2, 4, 4],
            {"s": np.array([1, 1, 2, 1.5], np.float32)},
            9,
        ),
        (2, 4, 4),
    ),
    "an old enlargement of integers": (
        graph(
            [helper.make_node("Resize", ["x", "s"], ["y"], mode="nearest")],
            ["n", 2, 4, 4],
            {"s": np.array([1, 1, 2, 0.75], np.float32)},
            10,
        ),
        (2, 4, 4),
    ),
    "a mask that nobody reads": (graph([helper.make_node("Dropout", ["x"], ["y", "mask"])], ["n", 4], {}, 9), (4,)),
    "a transposed convolution of a given size": (
        graph(
            [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "c", strides=[2, 2], output_shape=[16, 15])],
            ["n", 2, 8, 8],
            {"w": np.random.rand(2, 3, 3, 3).astype(np.float32)},
        ),
        (2, 8, 8),
    ),
    "a size by single precision": (
        graph(
            [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
            ["n", 2, 10, 10],
            {"s": np.array([1, 1, 0.7, 1.4], np.float32)},
        ),
        (2, 10, 10),
    ),
    "names of torch's own, and twice": (
        graph(
            [
                helper.make_node("Conv", ["x", "w"], ["a"], "forward"),
                helper.make_node("Conv", ["a", "w2"], ["b"], "a/b"),
                helper.make_node("Conv", ["b", "w"], ["c"], "a_b"),
                helper.make_node("Conv", ["c", "w2"], ["d"], "a_b_2"),
                helper.make_node("Conv", ["d", "w"], ["y"], "constant_0"),
            ],
            ["n", 2, 4, 4],
            {"w": np.random.rand(2, 2, 1, 1).astype(np.float32), "w2": np.random.rand(2, 2, 1, 1).astype(np.float32)},
        ),
        (2, 4, 4),
    ),
    "a position that is computed": (
        graph(
            [
                helper.make_node("Range", ["zero", "four", "one"], ["at"]),
                helper.make_node("Unsqueeze", ["at"], ["rows"], axes=[1]),
                helper.make_node("Unsqueeze", ["at"], ["columns"], axes=[0]),
                helper.make_node("Sub", ["rows", "columns"], ["far"]),
                helper.make_node("Cast", ["far"], ["bias"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["x", "bias"], ["y"]),
            ],
            ["n", 4, 4],
            {"zero": np.int64(0), "four": np.int64(4), "one": np.int64(1)},
            11,
        ),
        (4, 4),
    ),
    "an older softmax": (graph([helper.make_node("Softmax", ["x"], ["y"], axis=1)], ["n", 2, 3, 4], {}, 11), (2, 3, 4)),
    "scaled products": (
        graph(
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)],
            ["n", 6],
            {"w": np.random.rand(4, 6).astype(np.float32), "b": np.random.rand(4).astype(np.float32)},
        ),
        (6,),
    ),
    "weights in integers": (
        graph(
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=0),
                helper.make_node("Conv", ["d", "dw"], ["y"], "c"),
            ],
            ["n", 2, 5, 5],
            {
                "s": np.float32(1e-4),
                "z": np.uint8(0),
                "w": np.random.randint(-127, 127, (3, 2, 3, 3)).astype(np.int8),
                "ws": np.random.rand(3).astype(np.float32),
                "wz": np.zeros(3, np.int8),
            },
        ),
        (2, 5, 5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_unusual_node_answers_as_the_file(tmp_path: Path, name: str) -> None:
    model, shape = CASES[name]
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    x = torch.rand(2, *shape) * (0.0255 if name == "weights in integers" else 1.0)
    with torch.no_grad():
        found = from_onnx.module(path)(x).numpy()
    wanted = answers(path, x)[0]
    noise = float(np.square(found - wanted).sum() / np.square(wanted).sum())
    assert noise < (1e-4 if name == "weights in integers" else 1e-10), "inputs in integers are read as floats"


def test_values_in_another_file_of_the_folder_are_read(tmp_path: Path) -> None:
    path, apart = written(tmp_path, "views", 17), tmp_path / "apart" / "net.onnx"
    apart.parent.mkdir()
    onnx.save(onnx.load(path), apart, save_as_external_data=True, location="values.bin", size_threshold=0)
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(from_onnx.module(apart)(x), from_onnx.module(path)(x))
    assert from_onnx.digest(str(apart)) != from_onnx.digest(str(path))
    (apart.parent / "values.bin").unlink()
    with pytest.raises(UsageError, match="keeps its values in"):
        from_onnx.module(apart)


def test_numbers_up_to_the_batch_keep_it_free(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], end=1),
        helper.make_node("Squeeze", ["n"], ["one"]),
        helper.make_node("Range", ["zero", "one", "step"], ["at"]),
        helper.make_node("Gather", ["x", "at"], ["same"]),
        helper.make_node("Gemm", ["same", "w"], ["y"], "g"),
    ]
    constants = {"zero": np.int64(0), "step": np.int64(1), "w": np.random.rand(4, 3).astype(np.float32)}
    path, x = tmp_path / "net.onnx", torch.rand(3, 4)
    onnx.save(graph(nodes, ["n", 4], constants), path)
    module = from_onnx.module(path)
    assert np.allclose(module(x).detach().numpy(), answers(path, x)[0], atol=1e-5)
    found = ports.found(module, x, module.input_names)
    network = Network(ports.ported(module, found), Grid("ort", 8, ("conv",)), found.input_shape)
    assert network.graph is not None, network.captured.why_not


def test_node_that_cannot_be_run_is_one_line_with_its_name(tmp_path: Path) -> None:
    scales = np.array([1, 1, 1.5, 1.5], np.float32)
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], "up", mode="cubic", coordinate_transformation_mode="asymmetric"
    )
    onnx.save(graph([node], ["n", 1, 4, 4], {"s": scales}), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"node 'up' \(Resize\) cannot be run: Resize cubic by asymmetric"):
        from_onnx.module(tmp_path / "net.onnx")(torch.rand(1, 1, 4, 4))


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    weight = np.random.rand(3, 2, 1, 1).astype(np.float16)
    model = graph([helper.make_node("Conv", ["x", "w"], ["y"])], ["n", 2, 4, 4], {"w": weight})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    found = from_onnx.module(tmp_path / "half.onnx")(torch.rand(1, 2, 4, 4))
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"no graph"), "is no ONNX file|is no valid ONNX graph"),
        (lambda path: path.write_bytes(b""), "is no ONNX file|is no valid ONNX graph"),
        (
            lambda path: onnx.save(
                graph([helper.make_node("RandomUniformLike", ["x"], ["y"], "draw")], ["n", 2], {}), path
            ),
            r"nothing that can be made faster.*draw \(RandomUniformLike\)",
        ),
        (
            lambda path: onnx.save(graph([helper.make_node("Mine", ["x"], ["y"], domain="own")], ["n", 2], {}), path),
            "own",
        ),
    ],
)
def test_file_that_cannot_be_read_is_one_line(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=said) as caught:
        from_onnx.module(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
