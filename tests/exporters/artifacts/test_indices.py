"""Long lists leave the manifest and come back as they were."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_artifact import LOWERING, a_manifest

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.exporters.artifacts import artifact, indices
from nacdeploy.exporters.artifacts.indices import INDICES
from nacdeploy.strategies.steps.checkpoint import StepRecord

LONG = list(range(0, 90, 3))
DECISION: dict[str, Any] = {
    "cut": {"slices": [{"tensor": "a", "kept": LONG}, {"tensor": "b", "kept": LONG}, {"tensor": "c", "kept": [1, 2]}]},
    "order": LONG[::-1],
    "scales": [0.5] * 20,
    "names": ["n"] * 20,
    "flags": [True, False] * 10,
    "nested": [[*LONG], []],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = replace(a_manifest(), engines={}, steps=(StepRecord("P", DECISION, 0),))
    return artifact.write(tmp_path / "out", {"model.onnx": b"graph"}, manifest, LOWERING)


def test_steps_come_back_as_they_were_and_the_manifest_holds_no_long_list_of_indices(folder: Path) -> None:
    manifest, _ = artifact.load(folder)
    assert manifest.steps == (StepRecord("P", DECISION, 0),)
    written = json.loads((folder / "manifest.json").read_text())["steps"][0]["decision"]
    assert written["cut"]["slices"][0]["kept"] == written["cut"]["slices"][1]["kept"] == {"$indices": 0, "n": 30}
    assert written["cut"]["slices"][2]["kept"] == [1, 2]
    assert written["flags"] == DECISION["flags"]
    assert json.loads((folder / INDICES).read_text()) == [LONG, LONG[::-1]]
    assert INDICES in manifest.files


def test_artifact_without_long_lists_has_no_file_of_them(tmp_path: Path) -> None:
    folder = artifact.write(tmp_path / "out", {"model.onnx": b""}, replace(a_manifest(), engines={}), LOWERING)
    assert not (folder / INDICES).exists() and artifact.load(folder)[0].steps == a_manifest().steps


def test_older_manifest_holds_its_lists_itself(folder: Path) -> None:
    data = records.read_json(folder / "manifest.json")
    del data["files"][INDICES]
    (folder / INDICES).unlink()
    records.write_json(
        folder / "manifest.json", {**data, "steps": [{"link": "P", "decision": DECISION, "n_epochs": 0}]}
    )
    assert artifact.load(folder)[0].steps[0].decision == DECISION


def test_damaged_or_missing_lists_are_named(folder: Path) -> None:
    content = (folder / INDICES).read_text()
    (folder / INDICES).write_text(content.replace("3", "4"))
    with pytest.raises(NacdeployError, match=r"indices\.json is damaged"):
        artifact.load(folder)
    (folder / INDICES).unlink()
    with pytest.raises(NacdeployError, match=r"indices\.json is missing"):
        artifact.load(folder)


@pytest.mark.parametrize("reference", [2, -1, True, "0", None, 0.0, [0]])
def test_reference_to_no_list_is_refused(reference: object) -> None:
    with pytest.raises(UsageError, match=r"of indices\.json, which is not there"):
        indices.restored({"kept": {"$indices": reference}}, [[1], [2]], "a manifest")


@pytest.mark.parametrize("lists", [{}, None, 5, [5], ["text"]])
def test_file_that_holds_no_lists_is_refused(lists: object) -> None:
    with pytest.raises(UsageError, match="which is not there"):
        indices.restored({"$indices": 0}, lists, "a manifest")


def test_few_bytes_that_stand_for_many_values_are_refused() -> None:
    with pytest.raises(UsageError, match="too many values"):
        indices.restored([{"$indices": 0}] * 300, [list(range(10_000))], "a manifest")
