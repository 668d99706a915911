"""examples/pipeline.py as a program of its own, on digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import lay_out

ROOT = Path(__file__).parents[1]


def pipeline(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shared = ("--profile", "tiny.toml", "--budget", "2")
    program = [sys.executable, str(ROOT / "examples" / "pipeline.py"), *shared, *arguments]
    return subprocess.run(program, cwd=home, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("pipeline"))


def test_what_holds_is_packaged(home: Path) -> None:
    done = pipeline(home, "--require", "drop<=100", "--out", "release")
    assert done.returncode == 0, done.stderr
    assert "artifact.tar" in done.stdout and "sha256" in done.stdout
    assert (home / "release" / "artifact.tar").is_file()
    assert json.loads((home / "release" / "bench.json").read_text())["rows"]
    assert 'id="section-measured"' in (home / "release" / "report.html").read_text()


def test_what_fails_the_gate_is_not_packaged_and_one_line_says_why(home: Path) -> None:
    done = pipeline(home, "--require", "speedup>=1000", "--out", "refused")
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith("pipeline: ") and "speedup" in line and "Traceback" not in done.stderr
    assert not (home / "refused" / "artifact.tar").exists() and (home / "refused" / "bench.json").is_file()
