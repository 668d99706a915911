"""The artifact folder: exact round trip, hashes, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import (
    Exit,
    Gate,
    Lowering,
    Manifest,
    Parity,
    Preprocessing,
    TensorInfo,
)
from nacdeploy.strategies.steps.checkpoint import StepRecord

LOWERING = (
    Lowering("conv1", "conv", "w8a8", "int8", "", "node_conv"),
    Lowering("fc", "linear", "w8a8", "float32", "weight is float", "node_fc"),
)


def a_manifest() -> Manifest:
    return Manifest(
        target="ort",
        model_file="model.onnx",
        inputs=(TensorInfo("images", ("batch", 3, 16, 16), "float32"),),
        outputs=(TensorInfo("logits", ("batch", 10), "float32"),),
        preprocessing=Preprocessing(16, 16, 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        class_names=("zero", "one"),
        chain="QPF",
        steps=(StepRecord("Q", {"rung": "w8a8"}, 0),),
        metrics={"accuracy": 0.98},
        parity=Parity(500, 0.998, 31.5, "all"),
        gate=Gate(exits=(Exit("exit", "stages.0", 0.9),)),
        engines={"SM89": "model.sm89.engine"},
        notes=("a note",),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"model.onnx": b"graph", "model.sm89.engine": b"plan"}
    return artifact.write(tmp_path / "out", files, a_manifest(), LOWERING)


def test_load_returns_what_was_written(folder: Path) -> None:
    manifest, rows = artifact.load(folder)
    assert rows == LOWERING
    assert replace(manifest, files={}, versions={}, created="") == a_manifest()


def test_write_fills_hashes_versions_and_date(folder: Path) -> None:
    manifest, _ = artifact.load(folder)
    assert set(manifest.files) == {"model.onnx", "model.sm89.engine", "lowering.json"}
    assert manifest.versions["onnx"] and manifest.versions["python"]
    assert manifest.created.endswith("+00:00")
    assert manifest.schema == records.SCHEMA_VERSION


def test_size_bytes_is_that_of_the_model_file(folder: Path) -> None:
    assert artifact.size_bytes(folder, artifact.load(folder)[0]) == len(b"graph")


def test_load_reads_height_and_width_where_older_manifests_held_one_size(folder: Path) -> None:
    data = records.read_json(folder / artifact.MANIFEST)
    given = data["preprocessing"]
    del given["height"], given["width"], given["bits"]
    data["inputs"][0]["shape"] = ["batch", 3, 16, 24]
    records.write_json(folder / artifact.MANIFEST, {**data, "preprocessing": {"input_size": 16, **given}})
    taken = artifact.load(folder)[0].preprocessing
    assert (taken.height, taken.width, taken.bits, taken.mean) == (16, 24, 8, (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["model.onnx", "model.sm89.engine", "lowering.json"])
def test_load_names_the_damaged_file_when_a_byte_changes(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(NacdeployError, match=f"{name} is damaged"):
        artifact.load(folder)


def test_load_names_the_missing_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(NacdeployError, match=r"model\.onnx is missing"):
        artifact.load(folder)


def test_load_refuses_a_folder_without_manifest(tmp_path: Path) -> None:
    assert not artifact.is_artifact(tmp_path)
    with pytest.raises(UsageError, match="is not an artifact"):
        artifact.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"files": {}}, "no hash of 'model.onnx'"),
        ({"target": None}, "not a valid Manifest: target"),
    ],
)
def test_load_refuses_a_manifest_it_cannot_trust(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / artifact.MANIFEST
    records.write_json(path, {**records.read_json(path), **change})
    with pytest.raises(UsageError, match=message):
        artifact.load(folder)


def test_load_refuses_a_file_outside_the_artifact(folder: Path) -> None:
    path = folder / artifact.MANIFEST
    data = records.read_json(path)
    records.write_json(path, {**data, "files": {**data["files"], "../secret": "0"}})
    with pytest.raises(UsageError, match="outside the artifact"):
        artifact.load(folder)


def test_write_leaves_an_existing_folder_alone(folder: Path) -> None:
    before = (folder / artifact.MANIFEST).read_bytes()
    with pytest.raises(NacdeployError, match="exists already"):
        artifact.write(folder, {"model.onnx": b"other"}, a_manifest(), LOWERING)
    assert (folder / artifact.MANIFEST).read_bytes() == before


def test_write_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(NacdeployError, match="cannot write"):
        artifact.write(tmp_path / "out", {"model": b"a file", "model/part": b"in it"}, a_manifest(), LOWERING)
    assert list(tmp_path.iterdir()) == []
