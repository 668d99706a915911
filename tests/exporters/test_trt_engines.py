"""Real TensorRT-RTX engines of a small INT8 network, built without a GPU, and every refusal."""

from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nacdeploy.errors import MissingExtraError, NacdeployError, UsageError
from nacdeploy.exporters import trt
from nacdeploy.exporters.artifact import Lowering
from nacdeploy.exporters.onnx_checks import snr_db
from nacdeploy.profile import ExportTable

IMAGE = (3, 16, 16)

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx has wheels for Linux x86-64 only"
)


class NetworkWriter:
    """Writes conv-relu-conv-add-pool-gemm with explicit Q/DQ, as the exporter does."""

    def __init__(self, activation_type: type = np.int8) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = [numpy_helper.from_array(np.array(0, activation_type), "zero")]

    def constant(self, name: str, values: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def quantised(self, tensor: str, scale: float) -> str:
        step = self.constant(f"{tensor}_scale", np.array(scale, np.float32))
        integers = self.node("QuantizeLinear", [tensor, step, "zero"], f"{tensor}_q")
        return self.node("DequantizeLinear", [integers, step, "zero"], f"{tensor}_dq")

    def weight(self, layer: str, shape: tuple[int, ...]) -> list[str]:
        integers = self.constant(f"{layer}.weight_q", self.random.integers(-127, 128, shape, dtype=np.int8))
        scale = self.constant(f"{layer}.weight_scale", np.full(shape[0], 1 / (64 * shape[1]), np.float32))
        zero = self.constant(f"{layer}.weight_zero", np.zeros(shape[0], np.int8))
        bias = self.constant(f"{layer}.bias", self.random.normal(size=shape[0]).astype(np.float32))
        return [self.node("DequantizeLinear", [integers, scale, zero], f"{layer}.weight", axis=0), bias]

    def model(self) -> onnx.ModelProto:
        images = self.quantised("images", 1 / 127)
        first = self.node("Conv", [images, *self.weight("conv1", (32, 3, 3, 3))], "c1", pads=[1, 1, 1, 1])
        skip = self.quantised(self.node("Relu", [first], "r1"), 0.05)
        second = self.node("Conv", [skip, *self.weight("conv2", (32, 32, 3, 3))], "c2", pads=[1, 1, 1, 1])
        joined = self.node("Add", [skip, self.quantised(second, 0.05)], "sum")
        pooled = self.quantised(self.node("GlobalAveragePool", [joined], "pooled"), 0.02)
        self.node("Gemm", [self.node("Flatten", [pooled], "flat"), *self.weight("fc", (10, 32))], "logits", transB=1)
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *IMAGE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def table(*capabilities: str, float_type: str = "fp32") -> ExportTable:
    return ExportTable(compute_capabilities=capabilities, float_type=float_type, max_batch=4)


def build(model: onnx.ModelProto, settings: ExportTable) -> trt.Engines:
    return trt.build_engines(model.SerializeToString(), settings, "images", IMAGE, log=lambda line: None)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.fixture
def rtx_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "available_builder", lambda: "tensorrt_rtx")


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_build_engines_gives_identical_bytes_when_repeated() -> None:
    first, second = (build(NetworkWriter().model(), table("SM89")) for _ in range(2))
    assert first.files["SM89"] == second.files["SM89"]
    assert len(first.files["SM89"]) > 10_000
    assert first.builder.startswith("tensorrt_rtx 1.")


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_build_engines_tells_what_each_engine_computes_in() -> None:
    engines = build(NetworkWriter().model(), table("SM75", "SM120", float_type="fp16"))
    assert set(engines.files) == {"SM75", "SM120"} and "FP16" in engines.notes[0]
    layers = {"conv1": "node_c1", "conv2": "node_c2", "fc": "node_logits"}
    assert {name: engines.layers["SM120"][node] for name, node in layers.items()} == dict.fromkeys(layers, "int8")
    rows = [Lowering(name, "conv", "w8a8", "int8", "", node) for name, node in layers.items()]
    note = "SM75: 2 of 3 INT8 layers are computed in float16 (conv1, conv2)"
    assert trt.engine_notes(rows, engines) == (note,)


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_layer_types_reads_float_layers() -> None:
    model = NetworkWriter().model()
    convolution = next(node for node in model.graph.node if node.name == "node_c1")
    convolution.input[0] = "images"
    engines = build(model, table("SM89"))
    assert engines.layers["SM89"]["node_c1"] == "float32"
    assert engines.layers["SM89"]["node_c2"] == "int8"


@pytest.mark.parametrize("plan", [b"", b"\x00\xffno text\n", b'  tensor={ name="a" type=int8 }\n'])
def test_layer_types_knows_nothing_of_another_form(plan: bytes) -> None:
    assert trt.layer_types(plan) == {}


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_build_engines_logs_one_line_per_engine() -> None:
    lines: list[str] = []
    model = NetworkWriter().model().SerializeToString()
    engines = trt.build_engines(model, table("SM86", "SM89"), "images", IMAGE, log=lines.append)
    assert [line.split(": ")[1] for line in lines] == [f"{len(plan)} bytes" for plan in engines.files.values()]


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_build_engines_names_the_node_that_the_parser_rejects() -> None:
    model = NetworkWriter().model()
    model.graph.node.insert(0, helper.make_node("Strange", ["images"], ["unused"], name="odd_one"))
    with pytest.raises(NacdeployError, match=r"TensorRT-RTX rejects node 'odd_one' \(Strange\): ") as caught:
        build(model, table("SM89"))
    assert "\n" not in str(caught.value)


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_build_engines_hands_on_the_reason_when_the_builder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "_capabilities", lambda builder, table: (("SM75",), ()))
    with pytest.raises(NacdeployError, match=r"cannot build for SM75: .*FP32 GEMM is not supported"):
        build(NetworkWriter().model(), table("SM75"))


@pytest.mark.usefixtures("rtx_only")
@pytest.mark.parametrize(
    ("capability", "error", "message"),
    [
        ("SM87", NacdeployError, r"does not build for SM87: install TensorRT proper: pip install 'nacdeploy\[trt\]'"),
        ("SM90", NacdeployError, "does not build for SM90"),
        ("SM88", UsageError, r"unknown compute capability 'SM88'.*known: SM120"),
        ("SM75", UsageError, "no FP32 matrix multiplication for SM75"),
    ],
)
@needs_rtx
def test_build_engines_refuses_a_capability(capability: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(NetworkWriter().model(), table(capability))


@needs_rtx
@pytest.mark.usefixtures("rtx_only")
def test_build_engines_refuses_unsigned_activations() -> None:
    with pytest.raises(NacdeployError, match="node 'node_images_q' quantises to UINT8"):
        build(NetworkWriter(np.uint8).model(), table("SM89"))


def test_available_builder_prefers_tensorrt_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"tensorrt", "tensorrt_rtx"}

    def import_module(name: str) -> object:
        if name not in present:
            raise OSError("libnvinfer.so.11 is missing") if name == "tensorrt" else ImportError(name)
        return object()

    monkeypatch.setattr(trt.importlib, "import_module", import_module)
    assert trt.available_builder() == "tensorrt"
    present.remove("tensorrt")
    assert trt.available_builder() == "tensorrt_rtx"
    present.clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'nacdeploy\[trt\]'"):
        trt.available_builder()


def test_tensorrt_proper_is_refused_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NacdeployError, match="builds for the GPU it runs on, and there is none"):
        trt._capabilities("tensorrt", table("SM90"))


def test_tensorrt_proper_builds_for_the_gpu_present_and_notes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (8, 7))
    capabilities, notes = trt._capabilities("tensorrt", table("SM87", "SM90"))
    assert capabilities == ("SM87",)
    assert "cannot build for SM90 here" in notes[0]


def test_fp16_rest_converts_floats_and_keeps_integers_and_interface() -> None:
    model = NetworkWriter().model()
    converted = trt.fp16_rest(model)
    onnx.checker.check_model(converted, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert types["conv1.weight_q"] == TensorProto.INT8
    assert types["conv1.weight_scale"] == types["conv1.bias"] == types["images_scale"] == TensorProto.FLOAT16
    interface = [*converted.graph.input, *converted.graph.output]
    assert {value.type.tensor_type.elem_type for value in interface} == {TensorProto.FLOAT}
    assert all(tensor.data_type != TensorProto.FLOAT16 for tensor in model.graph.initializer)


def test_fp16_rest_computes_nearly_the_same() -> None:
    model = NetworkWriter().model()
    images = np.random.default_rng(1).normal(size=(4, *IMAGE)).astype(np.float32)
    assert snr_db(run(model, images), run(trt.fp16_rest(model), images)) > 30
