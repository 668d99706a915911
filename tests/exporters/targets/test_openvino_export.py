"""Target openvino as a user sees it: the IR in the artifact, parity and bench in OpenVINO, a second conversion."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import change, run, succeed

from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.targets.openvino.runner import version

ARTIFACT = Path("runs/export-openvino-1")


@pytest.fixture
def exported(home: Path) -> Path:
    succeed("export", "--target", "openvino", "--from", "runs/transfer-QEF-1")
    return ARTIFACT


def manifest(folder: Path = ARTIFACT) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def test_artifact_holds_the_ir_and_is_run_checked_and_built_again_in_openvino(exported: Path) -> None:
    found = manifest()
    own = {"model.onnx", "model.xml", "model.bin"}
    assert {*own, "preprocess.onnx", "lowering.json", "README.md"} == set(found["files"])
    assert [check["optimization"] for check in found["checks"]] == ["openvino", "basic", "disabled"]
    assert found["parity"] == found["checks"][0]
    assert found["builder"] == version()
    assert found["versions"]["openvino"]
    size = sum((exported / name).stat().st_size for name in ("model.xml", "model.bin"))
    assert artifact.size_bytes(exported, artifact.load(exported)[0]) == size

    table = succeed("bench", exported, "--json").json
    assert [row["runtime"].split(",")[0] for row in table["rows"]] == ["ONNX Runtime", version()]
    text = succeed("bench", exported).out
    assert f"{exported} runs in {version()}, CPU" in text

    again = succeed("verify", exported, "--json").json
    assert [(e["capability"], e["bytes_equal"]) for e in again["engines"]] == [("openvino", True)]

    (exported / "model.bin").write_bytes(b"damaged")
    assert "model.bin is damaged" in run("bench", exported).err


@pytest.mark.usefixtures("home")
def test_speed_of_a_transfer_for_openvino_is_measured_in_openvino() -> None:
    change("search", figure="speed")
    path = Path("tiny.toml")
    path.write_text(path.read_text().replace('target = "ort"', 'target = "openvino"'))
    done = succeed("transfer", "--strategy", "Q", "--json")
    assert done.json["figures"]["speed_ratio"] > 0
    assert "note: speed is measured in ONNX Runtime" not in done.err


@pytest.mark.usefixtures("home")
def test_missing_openvino_is_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = run("export", "--target", "openvino")
    assert done.code == 1
    assert done.err.splitlines()[-1].endswith("needs the package 'openvino': pip install 'nacdeploy[openvino]'")
    assert not ARTIFACT.exists()
