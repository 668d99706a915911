"""TrtRunner: what is refused without a GPU, and on one that an engine answers as ONNX Runtime does."""

import sys

import numpy as np
import pytest
import torch
from qdq_graph import IMAGE, NetworkWriter

from nacdeploy.base import latency
from nacdeploy.base.errors import MissingExtraError, NacdeployError
from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.exporters.targets.tensorrt import plan as trt_plan
from nacdeploy.exporters.targets.tensorrt.runner import TrtRunner
from nacdeploy.exporters.targets.tensorrt.runtime import engine_here
from nacdeploy.profile.tables.deployment import ExportTable


def test_engine_without_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NacdeployError, match="running an engine needs an NVIDIA GPU"):
        TrtRunner(b"plan", built_by=None)


def test_engine_of_another_version_is_refused_before_it_is_loaded() -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(
        NacdeployError, match=r"built by tensorrt_rtx 1\.6\.1, and 1\..* is installed.*export again here"
    ):
        TrtRunner(b"plan", built_by="tensorrt_rtx 1.6.1")


def test_engine_of_a_missing_builder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nacdeploy\[trt\]'"):
        TrtRunner(b"plan", built_by="tensorrt 10.9.0")


def test_damaged_engine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(gpu, "require_gpu", lambda what: "SM89")
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    with pytest.raises(NacdeployError, match=r"TensorRT-RTX .* cannot load the engine: .*; export it again") as caught:
        TrtRunner(b"no plan" * 200, built_by=None)
    assert "\n" not in str(caught.value)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(6, *IMAGE)).astype(np.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("float_type", ["fp16", "fp32"])
def test_engine_answers_as_onnx_runtime(float_type: str, cuda_graph: bool, images: np.ndarray) -> None:
    capability = gpu.require_gpu("this test")
    if (float_type, capability) == ("fp32", "SM75"):
        pytest.skip("TensorRT-RTX has no FP32 products for SM75")
    model = NetworkWriter().model().SerializeToString()
    table = ExportTable(compute_capabilities=(capability,), float_type=float_type, max_batch=4)
    built = trt.build_engines(model, table, "images", IMAGE, log=lambda line: None)
    runner = TrtRunner(built.files[capability], built_by=built.builder, cuda_graph=cuda_graph)
    assert (runner.max_batch, runner.output_names) == (4, ("logits",))
    expected = OnnxRunner(model, optimization="basic").run(images)[0]
    for _ in range(2):
        assert snr_db(expected, runner.run(images)[0]) > 25
    layers = trt_plan.inspected(runner.inspect())
    assert "int8" in trt_plan.precisions(layers).values()


@pytest.mark.gpu
def test_device_time_is_shown_apart(images: np.ndarray) -> None:
    model = NetworkWriter().model().SerializeToString()
    subject = engine_here(model).runner.subject(images[:1])
    found = latency.compare({"a": subject}, baseline="a", batch_size=1, threads=1, n_rounds=3, round_ms=5)
    assert 0 < found.device_latencies["a"].p50_ms < found.latencies["a"].p50_ms


@pytest.mark.gpu
def test_onnx_runtime_on_the_gpu_answers_as_on_the_cpu(images: np.ndarray) -> None:
    model = NetworkWriter().model().SerializeToString()
    runner = OnnxRunner(model, providers="CUDAExecutionProvider")
    assert snr_db(OnnxRunner(model).run(images)[0], runner.run(images)[0]) > 25
    assert runner.subject(images).device_ms is not None
