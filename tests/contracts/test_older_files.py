"""Files of the version before Settings, Target and Metric were objects still load, resume and run.

`fixtures/written_by_0_11` holds a search that was killed with its cache and baseline, a checkpoint with every kind of
attachment, and an artifact, as commit 'P's choice and its classes cost half' wrote them.
"""

import json
import shutil
from pathlib import Path

import pytest
from command_line import rows, succeed

WRITTEN = Path(__file__).parent.parent / "fixtures" / "written_by_0_11"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(WRITTEN, tmp_path / "older")
    monkeypatch.chdir(tmp_path / "older")
    return tmp_path / "older"


def test_killed_search_of_an_older_version_resumes_and_keeps_its_rows(older: Path) -> None:
    before = rows(Path("runs/killed"))
    done = succeed("search", "--resume", "runs/killed", "--cache", "cache")
    assert "keeps the defaults that it began with: quantize.calibration was 'percentile' and is 'auto'" in done.err
    after = rows(Path("runs/killed"))
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert "trained the baseline" not in done.err
    assert Path("runs/killed/result.json").is_file()


def test_baseline_of_an_older_version_is_reused(older: Path) -> None:
    done = succeed("transfer", "--strategy", "P", "--out", "runs/again")
    assert "baseline from runs/baselines/" in done.err


def test_cache_of_an_older_version_is_read(older: Path) -> None:
    """A search anew takes the remembered states: it writes no second entry for the chains that the first one tried."""
    known = set(Path("cache").iterdir())
    succeed("search", "--cache", "cache", "--out", "runs/anew")
    assert rows(Path("runs/anew"))[: len(rows(Path("runs/killed")))] == rows(Path("runs/killed"))
    assert known <= set(Path("cache").iterdir())


def test_checkpoint_of_an_older_version_exports(older: Path) -> None:
    succeed("export", "--from", "runs/followed", "--target", "ort", "--out", "again")
    manifests = [json.loads((Path(each) / "manifest.json").read_text()) for each in ("artifact", "again")]
    assert manifests[0]["chain"] == manifests[1]["chain"]
    written = [(Path(each) / "lowering.json").read_text() for each in ("artifact", "again")]
    assert written[0] == written[1]


def test_artifact_of_an_older_version_is_timed_and_explained(older: Path) -> None:
    assert succeed("bench", "artifact", "--json").json
    assert succeed("explain", "artifact", "--json").json
    assert "PQSEF" in succeed("show", "runs/followed").out
