"""A model repository: its configuration is Triton's own, its files are the artifact's, and what cannot be served is
refused in one line."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import files, lay_out, refused_line, run, succeed
from conftest import follow, make_profile
from google.protobuf import text_format
from triton_server import command, free_ports, needs_server
from tritonclient.grpc import model_config_pb2

import nacdeploy
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.exporters import export as exporting
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import TensorInfo
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.triton import repository
from nacdeploy.exporters.triton.configuration import Model, Served, config
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task


@pytest.fixture(scope="module")
def cascade(baseline: CompressionState, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a quantized network with two exits, in segments."""
    profile = make_profile(
        export={"exits": "segments"}, bench={"n_rounds": 3, "round_ms": 0.5}, exits={"max_drop": 3.0}
    )
    state = follow(baseline, "QE", task, profile)
    place = tmp_path_factory.mktemp("made") / "artifact"
    return exporting.export(state, task, profile, targets.parse("ort"), place, Context())


def parsed(text: str) -> Any:
    """The configuration as Triton's own protocol buffer reads it."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def of(place: Path, model: str) -> Any:
    return parsed((place / model / "config.pbtxt").read_text())


def test_repository_holds_the_gate_and_a_model_for_each_segment(cascade: Path, tmp_path: Path) -> None:
    served = Served(max_batch=4, queue_delay_us=250, instances=2, threads=3)
    names = repository.write(cascade, tmp_path / "models", served, "net")
    segments = tuple(f"net_segment_{k}" for k in range(3))
    assert names == ("net", *segments, "net_preprocess", "net_from_pixels")
    gate, first = of(tmp_path / "models", "net"), of(tmp_path / "models", "net_segment_0")
    assert gate.backend == "python" and gate.max_batch_size == 4
    assert [each.name for each in gate.output] == ["logits", "exit"]
    assert gate.dynamic_batching.max_queue_delay_microseconds == 250
    assert gate.instance_group[0].count == 2
    manifest, _ = artifact.load(cascade)
    assert manifest.gate is not None
    assert json.loads(gate.parameters["thresholds"].string_value) == list(manifest.gate.thresholds)
    assert first.parameters["threads"].string_value == "3"
    assert len(first.model_warmup) == 1
    assert model_config_pb2.DataType.Name(first.output[1].data_type) == "TYPE_UINT8"
    labels = (tmp_path / "models" / "net" / "labels.txt").read_text().splitlines()
    assert labels == list(manifest.class_names)


def test_configuration_for_an_onnx_server_is_triton_s(cascade: Path, tmp_path: Path) -> None:
    repository.write(cascade, tmp_path / "models", Served(backend="onnxruntime"), "net")
    part = of(tmp_path / "models", "net_segment_1")
    assert part.platform == "onnxruntime_onnx"
    assert part.default_model_filename == "model.onnx"
    assert (tmp_path / "models" / "net_segment_1" / "1" / "model.onnx").is_file()


@needs_server
def test_server_without_the_backend_names_it_and_nothing_else(cascade: Path, tmp_path: Path) -> None:
    repository.write(cascade, tmp_path / "models", Served(backend="onnxruntime"), "net")
    (tmp_path / "work").mkdir()
    http, grpc = free_ports(2)
    ports = (f"--http-port={http}", f"--grpc-port={grpc}")
    words, environment = command(tmp_path / "models", tmp_path / "work", *ports)
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    said = ended.stdout + ended.stderr
    assert "unable to find backend library for backend 'onnxruntime'" in said.replace("\\'", "'")
    assert "failed to parse" not in said.lower()


def test_engines_are_chosen_by_the_gpu(cascade: Path, tmp_path: Path) -> None:
    manifest, _ = artifact.load(cascade)
    for name in ("a.plan", "b.plan"):
        (tmp_path / name).write_bytes(name.encode())
    made = replace(
        manifest, gate=None, cascade=None, engines={"SM86": "a.plan", "SM120": "b.plan"}, builder="tensorrt 10.13"
    )
    (model, *_) = repository.models(tmp_path, made, Served(backend="tensorrt"), "net")
    found = parsed(config(model, Served(backend="tensorrt")))
    assert dict(found.cc_model_filenames) == {"8.6": "sm86.plan", "12.0": "sm120.plan"}
    assert model.files["sm86.plan"] == b"a.plan"
    assert found.platform == "tensorrt_plan"
    assert {model_config_pb2.DataType.Name(each.data_type) for each in (*found.input, *found.output)} == {"TYPE_FP32"}
    half = replace(made, builds={"SM86": {"io_type": "fp16"}, "SM120": {"io_type": "fp16"}})
    (model, *_) = repository.models(tmp_path, half, Served(backend="tensorrt"), "net")
    found = parsed(config(model, Served(backend="tensorrt")))
    assert {model_config_pb2.DataType.Name(each.data_type) for each in (*found.input, *found.output)} == {"TYPE_FP16"}


@pytest.mark.parametrize(
    ("backend", "changed", "said"),
    [
        ("tensorrt", {}, "has none"),
        ("tensorrt", {"engines": {"SM86": "model.onnx"}, "builder": "tensorrt_rtx 1.2"}, "TensorRT itself"),
        ("openvino", {}, "OpenVINO's IR"),
    ],
)
def test_what_a_backend_does_not_take_is_refused(
    backend: str, changed: dict[str, Any], said: str, cascade: Path
) -> None:
    manifest, _ = artifact.load(cascade)
    made = replace(manifest, gate=None, cascade=None, **changed)
    with pytest.raises(UsageError, match=said):
        repository.models(cascade, made, Served(backend=backend), "net")


def test_any_name_and_type_survives_as_text() -> None:
    odd = 'a "b"\\\n\tß'
    shape = ("batch", 3, "height")
    model = Model("m", (TensorInfo(odd, shape, "float16"),), (TensorInfo("y", ("batch",), "int64"),), "python", {})
    found = parsed(config(model, Served()))
    assert found.input[0].name == odd
    assert list(found.input[0].dims) == [3, -1]
    assert list(found.output[0].dims) == [1] and list(found.output[0].reshape.shape) == []
    fixed = Model("m", (TensorInfo("x", (1, 3), "float32"),), (TensorInfo("y", (1, 2), "float32"),), "python", {})
    assert parsed(config(fixed, Served())).max_batch_size == 0
    with pytest.raises(UsageError, match="complex64"):
        config(replace(fixed, inputs=(TensorInfo("x", (1, 3), "complex64"),)), Served())


def test_command_serves_an_artifact_and_leaves_a_folder_in_use_alone(
    cascade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lay_out(tmp_path))
    asked = ("export", "--from", cascade, "--target")
    assert "tritonserver --model-repository" in succeed(*asked, "triton", "--out", "models").out
    before = files()
    assert "models" in refused_line(run(*asked, "triton", "--out", "models"))
    assert files() == before
    assert "backend of Triton" in refused_line(run(*asked, "triton:onnx"))
    assert succeed(*asked, "triton:onnxruntime", "--json").json["models"][0] == "network"


def test_damaged_artifact_is_not_served(cascade: Path, tmp_path: Path) -> None:
    shutil.copytree(cascade, tmp_path / "copy")
    (tmp_path / "copy" / "segments" / "0" / "model.onnx").write_bytes(b"no")
    with pytest.raises(NacdeployError, match="segments/0"):
        nacdeploy.export(source=tmp_path / "copy", target="triton", out=tmp_path / "models", runs=tmp_path / "runs")
    assert not (tmp_path / "models").exists()
