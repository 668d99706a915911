"""OnnxRunner: outputs, options, and one-line errors for broken models and inputs."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import compare
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, Optimization


def two_output_model() -> bytes:
    """Doubles its images, and their mean over all but the batch."""
    nodes = [
        helper.make_node("Mul", ["images", "two"], ["doubled"]),
        helper.make_node("ReduceMean", ["doubled"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, ["batch", 1, 2, 2]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize("optimization", get_args(Optimization))
def test_run_gives_all_outputs_at_every_optimization(optimization: Optimization) -> None:
    runner = OnnxRunner(two_output_model(), optimization=optimization)
    images = np.arange(8).reshape(2, 1, 2, 2)
    doubled, mean = runner.run(images)
    assert (runner.input_name, runner.output_names) == ("images", ("doubled", "mean"))
    np.testing.assert_array_equal(doubled, images * 2)
    np.testing.assert_array_equal(mean, [3, 11])


def test_runner_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(two_output_model())
    assert OnnxRunner(tmp_path / "model.onnx", threads=2).run(np.ones((3, 1, 2, 2)))[1].shape == (3,)


def test_runner_uses_the_cpu_alone() -> None:
    assert OnnxRunner(two_output_model())._session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("content", [b"", b"no model", two_output_model()[:60]])
def test_runner_names_the_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(NacdeployError, match=r"ONNX Runtime cannot load .*model\.onnx: ") as caught:
        OnnxRunner(path)
    assert "\n" not in str(caught.value)


def test_runner_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NacdeployError, match=r"cannot load .*absent\.onnx"):
        OnnxRunner(tmp_path / "absent.onnx")


def test_run_refuses_images_of_another_shape() -> None:
    with pytest.raises(NacdeployError, match=r"cannot run images of shape \(1, 3, 2, 2\)") as caught:
        OnnxRunner(two_output_model()).run(np.ones((1, 3, 2, 2)))
    assert "\n" not in str(caught.value)


def test_gpu_provider_is_refused_without_gpu_though_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        with pytest.raises(NacdeployError, match=f"ONNX Runtime's {provider} needs an NVIDIA GPU"):
            OnnxRunner(two_output_model(), providers=provider)


def test_bound_buffers_give_what_a_plain_call_gives() -> None:
    runner = OnnxRunner(two_output_model())
    binding = runner.bound((3, 1, 2, 2))
    for seed in range(2):
        images = np.random.default_rng(seed).normal(size=(3, 1, 2, 2)).astype(np.float32)
        binding.load(images)
        binding.enqueue()
        for bound, plain in zip(binding.read(), runner.run(images), strict=True):
            np.testing.assert_array_equal(bound, plain)


def test_subject_is_timed_as_any_call_and_has_no_device_time() -> None:
    runner = OnnxRunner(two_output_model())
    subject = runner.subject(np.ones((2, 1, 2, 2), np.float32))
    found = compare({"a": subject, "b": subject.run}, baseline="a", batch_size=2, threads=1, n_rounds=3, round_ms=1)
    assert subject.device_ms is None and found.device_latencies == {}
    assert found.latencies.keys() == {"a", "b"} and found.latencies["a"].p50_ms > 0


def biased_model() -> bytes:
    """A convolution on integers whose float bias, 0.3, is less than half a step of the input's scale times the
    weight's."""
    values = {
        "one": np.float32(1),
        "fine": np.float32(0.1),
        "zero": np.int8(0),
        "weight": np.ones((1, 1, 1, 1), np.int8),
    }
    values |= {"ones": np.ones(1, np.float32), "zeros": np.zeros(1, np.int8), "bias": np.full(1, 0.3, np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weight", "ones", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "fine", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "fine", "zero"], ["out"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 1, 2, 2]) for n in ("images", "out")]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize("optimization", ["basic", "disabled"])
def test_float_biases_stay_float_where_another_runtime_is_stood_for(optimization: Optimization) -> None:
    (answer,) = OnnxRunner(biased_model(), optimization=optimization).run(np.ones((1, 1, 2, 2)))
    np.testing.assert_allclose(answer, 1.3, rtol=1e-6)
