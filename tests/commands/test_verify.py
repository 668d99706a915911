"""Verifying an artifact: right, damaged, built by another version, and exported before there were records."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run, succeed

ARTIFACT = Path("runs/export-trt-1")


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished folder with an artifact that holds an engine."""
    pytest.importorskip("tensorrt_rtx")
    import shutil

    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("export", "--target", "trt")
    return folder


@pytest.fixture
def here(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    shutil.copytree(exported / ARTIFACT, tmp_path / ARTIFACT)
    monkeypatch.chdir(tmp_path)
    return tmp_path / ARTIFACT


def edit(artifact: Path, **builds: Any) -> None:
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["builds"] = {name: {**manifest["builds"][name], **changes} for name, changes in builds.items()}
    path.write_text(json.dumps(manifest))


def test_artifact_holds_the_graph_and_the_record_of_its_engines(here: Path) -> None:
    manifest = json.loads((here / "manifest.json").read_text())
    record = manifest["builds"]["SM86"]
    assert record["graph_sha256"] == manifest["files"]["model-fp16.onnx"]
    assert (record["builder"], record["float_type"]) == ("tensorrt_rtx", "fp16")


def test_verify_builds_again_and_says_what_was_measured(here: Path) -> None:
    found = succeed("verify", ARTIFACT, "--json").json
    assert found["n_files"] == 6
    assert [engine["capability"] for engine in found["engines"]] == ["SM86"]
    assert found["engines"][0]["said"].startswith("bytes ") and found["unbuilt"] == []
    assert "measured with TensorRT-RTX" in found["repeats"]["tensorrt_rtx"]
    text = succeed("verify", ARTIFACT).out
    assert "6 files are as their hashes say" in text and "engine SM86, built again: bytes" in text


def test_verify_names_a_damaged_file(here: Path) -> None:
    engine = here / "engine-sm86.trt"
    engine.write_bytes(engine.read_bytes()[:-1])
    done = run("verify", ARTIFACT)
    assert (done.code, done.out) == (1, "")
    assert "engine-sm86.trt is damaged: its sha256" in done.err


@pytest.mark.parametrize(
    ("builds", "said"),
    [
        ({"SM86": {"version": "1.6.1"}}, "was built by tensorrt_rtx 1.6.1, and"),
        ({}, "the artifact holds no record of its build"),
    ],
)
def test_verify_says_why_an_engine_is_not_built_again(builds: dict[str, Any], said: str, here: Path) -> None:
    edit(here, **builds)
    assert said in succeed("verify", ARTIFACT).out


def test_verify_refuses_a_malformed_record_and_what_is_no_artifact(here: Path) -> None:
    edit(here, SM86={"max_batch": "many"})
    assert "is not a valid BuildRecord: max_batch" in run("verify", ARTIFACT).err
    assert run("verify", "nowhere").code == 2
