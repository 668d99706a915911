"""What is trusted, and where somebody else's records lead: nowhere outside their own folders."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import files, refused_line, run, succeed

from nacdeploy import models
from nacdeploy.base.outside import own
from nacdeploy.models.users import trust

MARK = "from pathlib import Path\nPath('RUN').touch()\n"


def network(extra: str = "") -> str:
    body = "nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))"
    return f"from torch import nn\n{extra}def make(): return {body}\n"


@pytest.fixture
def stranger(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody else, copied: this user wrote and named nothing of it."""
    monkeypatch.setenv(own.VARIABLE, str(home.parent / f"{home.name}-settings"))
    monkeypatch.setattr(trust, "_accepted", set())
    return home


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_trusted_file_runs_and_changed_or_removed_one_does_not(stranger: Path) -> None:
    Path("net.py").write_text(network())
    spec = models.resolve("net.py:make", n_classes=10, channels=1, input_size=(8, 8))
    with pytest.raises(models.UsageError, match="only a record names"):
        spec.build()
    assert "may run in this content" in succeed("trust", "net.py").out
    spec.build()
    assert f"{stranger / 'net.py'} may run" in succeed("trust").out
    Path("net.py").write_text(network(MARK))
    assert "has changed or is gone, and does not run" in succeed("trust").out
    changed = models.resolve("net.py:make", n_classes=10, channels=1, input_size=(8, 8))
    with pytest.raises(models.UsageError, match="only a record names"):
        changed.build()
    succeed("trust", "net.py:make")
    succeed("trust", "net.py", "--remove")
    with pytest.raises(models.UsageError, match="only a record names"):
        changed.build()
    assert not Path("RUN").exists()


def test_run_folder_of_another_user_runs_no_code(
    stranger: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("net.py").write_text(network())
    succeed("transfer", "--strategy", "P", "--model", "net.py:make", "--out", "theirs")
    monkeypatch.setenv(own.VARIABLE, str(tmp_path / "another"))
    monkeypatch.setattr(trust, "_accepted", set())
    assert "is code that only a record names" in refused_line(run("export", "--from", "theirs"))
    succeed("export", "--from", "theirs", "--model", "net.py:make")


def test_doctor_lists_what_is_trusted(stranger: Path) -> None:
    assert "trusted: no file of code is trusted" in run("doctor").out
    Path("net.py").write_text(network())
    succeed("trust", "net.py")
    assert f"trusted: {stranger / 'net.py'} may run" in run("doctor").out
    assert run("doctor", "--json").json["trusted"][0]["is_unchanged"] is True


@pytest.mark.parametrize("named", ["nothing.py", "nothing", "tiny.toml"])
def test_what_cannot_be_trusted_is_said_in_a_line(named: str, stranger: Path) -> None:
    refused_line(run("trust", named))
    refused_line(run("trust", named, "--remove"))


def test_baseline_that_a_manifest_names_elsewhere_is_neither_read_nor_written(
    stranger: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.mktemp("victim")
    (baseline,) = [path.parent for path in Path("runs/baselines").glob("*/checkpoint.json")]
    shutil.copytree(baseline, victim / "mine")
    edited(Path("runs/export-ort-1/manifest.json"), baseline={"checkpoint": str(victim / "mine")})
    before = sorted(victim.rglob("*"))
    assert "nacdeploy trust" in refused_line(run("bench", "runs/export-ort-1"))
    assert sorted(victim.rglob("*")) == before
    succeed("trust", "runs/export-ort-1")
    succeed("bench", "runs/export-ort-1")


def test_baseline_within_the_folder_of_runs_is_taken(stranger: Path) -> None:
    succeed("bench", "runs/export-ort-1")
    assert list(Path("runs/baselines").glob("*/onnx/manifest.json"))


def test_cache_that_a_run_names_elsewhere_is_not_touched(
    stranger: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim, record = tmp_path_factory.mktemp("victim"), Path("runs/search-1/run.json")
    data = json.loads(record.read_text())
    data["profile"]["search"]["cache"] = str(victim / "cache")
    record.write_text(json.dumps(data))
    before = files()
    assert "was not written by you here" in refused_line(run("search", "--resume", "runs/search-1"))
    assert (list(victim.iterdir()), files()) == ([], before)
    succeed("search", "--resume", "runs/search-1", "--budget", 5, "--cache", "here")
    succeed("trust", "runs/search-1")
    succeed("search", "--resume", "runs/search-1", "--budget", 5)
    assert (victim / "cache").is_dir()


@pytest.mark.parametrize("name", ["tracking.jsonl", "cache", "checkpoint/more", "journal.jsonl"])
def test_link_out_of_somebody_else_s_run_is_not_written_to(
    name: str, stranger: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.mktemp("victim")
    (victim / "file").write_text("mine")
    link = Path("runs/search-1", name)
    if link.is_dir():
        shutil.move(link, victim / "folder")
    elif link.is_file():
        shutil.move(link, victim / "moved")
    target = next(victim / each for each in ("folder", "moved", "file") if (victim / each).exists())
    link.symlink_to(target)
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    for more in ((), ("--fork", "--budget", 6)):
        said = refused_line(run("search", "--resume", "runs/search-1", "--budget", 5, *more))
        assert f"{link} leads out of runs/search-1" in said
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before


def test_own_run_goes_on_with_the_cache_that_it_was_begun_with(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    succeed("search", "--out", "own", "--cache", elsewhere / "cache", "--budget", 2)
    succeed("search", "--resume", "own", "--budget", 3)


def test_settings_that_cannot_be_written_keep_nothing_and_say_so(
    stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    monkeypatch.setenv(own.VARIABLE, str(stranger / "file" / "below"))
    assert "cannot be written" in refused_line(run("trust", "runs/search-1"))
    Path("net.py").write_text(network())
    assert "cannot be written" in refused_line(run("trust", "net.py"))
