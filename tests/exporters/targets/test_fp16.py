"""The FP16 rest: what is converted, what stays, and that every network's graph builds (slow)."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from qdq_graph import IMAGE, NetworkWriter

from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.exporters.targets.tensorrt.fp16 import FloatType, fp16_rest
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.testing.quantized import quantized


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.mark.parametrize(("io_type", "interface"), [("fp32", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16)])
def test_fp16_rest_converts_floats_and_keeps_integers_and_interface(io_type: FloatType, interface: int) -> None:
    model = NetworkWriter().model()
    converted = fp16_rest(model, io_type)
    onnx.checker.check_model(converted, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert types["conv1.weight_q"] == TensorProto.INT8
    assert types["conv1.weight_scale"] == types["conv1.bias"] == types["images_scale"] == TensorProto.FLOAT16
    ends = [*converted.graph.input, *converted.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {interface}
    assert all(tensor.data_type != TensorProto.FLOAT16 for tensor in model.graph.initializer)


def test_fp16_rest_computes_nearly_the_same() -> None:
    model = NetworkWriter().model()
    images = np.random.default_rng(1).normal(size=(4, *IMAGE)).astype(np.float32)
    assert snr_db(run(model, images), run(fp16_rest(model), images)) > 30


def builds(model: bytes, side: int, capabilities: tuple[str, ...]) -> set[str]:
    """The capabilities that an engine came out for."""
    settings = ExportTable(compute_capabilities=capabilities)
    engines = trt.build_engines(
        model, settings, "images", (3, side, side), builder="tensorrt_rtx", log=lambda line: None
    )
    return {capability for capability, plan in engines.files.items() if plan}


def test_quantized_network_builds_in_fp16_and_is_nearly_the_same() -> None:
    pytest.importorskip("tensorrt_rtx")
    model = to_onnx(quantized("resnet8", 16, width=32), 20).model
    images = np.random.default_rng(1).normal(size=(4, *IMAGE)).astype(np.float32)
    loaded = onnx.load_model_from_string(model)
    assert snr_db(run(loaded, images), run(fp16_rest(loaded), images)) > 30
    assert builds(model, 16, ("SM75", "SM89")) == {"SM75", "SM89"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "mobilenet_v2", "deit_tiny"])
def test_every_network_builds_for_every_capability(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    capabilities = ("SM75", "SM80", "SM86", "SM89", "SM120")
    model = to_onnx(quantized(name, 32), 20).model
    onnx.checker.check_model(fp16_rest(onnx.load_model_from_string(model)), full_check=True)
    assert builds(model, 32, capabilities) == set(capabilities)
