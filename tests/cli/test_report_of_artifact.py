"""`report --artifact`: one page of a run and of what was exported from it."""

from pathlib import Path

import pytest

from tests.command_line import change, lay_out, refused_line, run, succeed


def test_page_tells_the_artifact_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lay_out(tmp_path))
    succeed("transfer", "--strategy", "Q")
    succeed("export", "--out", "artifact")
    succeed("report", "runs/transfer-Q-1", "--artifact", "artifact", "--out", "page.html")
    page = Path("page.html").read_text()
    assert "Export for ort" in page and "Layers as they are deployed" in page and "licence of the weights" in page
    wrong = run("report", "runs/transfer-Q-1", "--artifact", "runs", "--out", "other.html")
    assert wrong.code == 2
    assert "not an artifact" in refused_line(wrong) and not Path("other.html").exists()


def test_page_tells_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lay_out(tmp_path))
    change("export", exits="segments")
    succeed("transfer", "--strategy", "QE")
    succeed("export", "--out", "artifact")
    succeed("report", "runs/transfer-QE-1", "--artifact", "artifact", "--out", "page.html")
    page = Path("page.html").read_text()
    assert "all outputs in one graph" in page and "leave at the exits" in page
