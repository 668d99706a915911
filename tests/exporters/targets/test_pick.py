"""Which runner an artifact gets here, and what is said of where a speed is measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from qdq_graph import IMAGE, NetworkWriter

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.artifact import Manifest, Preprocessing, TensorInfo
from nacdeploy.exporters.targets import parse, pick
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.profile.tables.deployment import ExportTable

MANIFEST = Manifest(
    target="trt",
    model_file="model.onnx",
    inputs=(TensorInfo("images", ("batch", *IMAGE), "float32"),),
    outputs=(TensorInfo("logits", ("batch", 10), "float32"),),
    preprocessing=Preprocessing(16, 16, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    chain="Q",
    engines={"SM89": "engine-sm89.trt"},
    builder="tensorrt_rtx 1.0",
)


def noted(target: str, *capabilities: str) -> str:
    return pick.speed_note(runtime_of(parse(target)), ExportTable(compute_capabilities=capabilities))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(NetworkWriter().model().SerializeToString())
    (tmp_path / "engine-sm89.trt").write_bytes(b"plan")
    return tmp_path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))


@pytest.mark.usefixtures("no_gpu")
def test_engine_artifact_runs_its_graph_on_the_cpu_and_says_so(folder: Path) -> None:
    assert pick.gpu_host([MANIFEST]) is None
    picked = pick.pick(folder, MANIFEST, threads=1)
    assert picked.runner.run(np.zeros((2, *IMAGE), np.float32))[0].shape == (2, 10)
    assert "CPUExecutionProvider" in picked.runtime and "speed is measured on a GPU" in picked.note
    assert pick.pick(folder, replace(MANIFEST, engines={}), threads=1).note == ""


@pytest.mark.usefixtures("ada")
def test_artifacts_run_on_the_gpu_when_one_holds_engines() -> None:
    assert pick.gpu_host([replace(MANIFEST, engines={}), MANIFEST]) is runtime_of(parse("trt"))
    assert pick.gpu_host([replace(MANIFEST, engines={})]) is None


@pytest.mark.usefixtures("ada")
def test_engine_of_another_version_is_named(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(NacdeployError, match=r"built by tensorrt_rtx 1\.0, and .* is installed"):
        pick.pick(folder, MANIFEST, threads=1, host=runtime_of(parse("trt")))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("target", "said"), [("ort", ""), ("trt", "no SM80 or SM89 here"), ("trt-rtx", "may rank otherwise")]
)
def test_speed_note_says_that_the_target_is_not_here(target: str, said: str) -> None:
    note = noted(target, "SM80", "SM89")
    assert bool(note) is bool(said)
    assert said in note


@pytest.mark.usefixtures("ada")
def test_speed_note_compares_the_gpu_with_the_profile() -> None:
    assert noted("trt", "SM80", "SM89") == ""
    assert "the GPU here is SM89" in noted("trt", "SM120")
