"""A target is its folder and one line of FOLDERS: without openvino's, everything else is as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import SETTINGS, TINY

ROOT = Path(__file__).parent.parent
LINE = '    "openvino": "openvino",\n'

EVERY_MODULE = """
import importlib, pkgutil, nacdeploy
for module in pkgutil.walk_packages(nacdeploy.__path__, "nacdeploy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from nacdeploy.exporters import targets
print(nacdeploy.__file__, targets.names())
"""
COMMANDS = """
import sys
from nacdeploy.cli.main import main
for line in ("transfer --strategy PQ", "export --target ort --out artifact", "bench artifact", "explain artifact",
             "verify artifact", "doctor --json"):
    sys.argv = ["nacdeploy", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""
# The rooms that speak of targets, without what is openvino's own, and without the README's table of all of them.
SUITES = (
    "tests/test_architecture.py",
    "tests/profile/test_profile.py",
    "tests/contracts/test_target_laws.py",
    "tests/exporters/targets/test_pick.py",
    "tests/exporters/test_parity.py",
    "tests/exporters/test_export.py",
    "tests/network/attachments/test_fake_quant.py",
    "tests/sessions/test_runs.py",
    "tests/commands/test_verify.py",
)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's package without target openvino."""
    copy = tmp_path_factory.mktemp("without")
    for name in ("nacdeploy", "profiles", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*openvino*"))
    shutil.copy2(ROOT / "pyproject.toml", copy)
    registry = copy / "nacdeploy" / "exporters" / "targets" / "__init__.py"
    text = registry.read_text(encoding="utf-8")
    assert LINE in text
    registry.write_text(text.replace(LINE, ""), encoding="utf-8")
    assert not (registry.parent / "openvino").exists()
    return copy


def python(copy: Path, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that sees the copy alone."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder or copy, env=environment, capture_output=True, text=True)


def test_every_module_imports(without: Path) -> None:
    done = python(without, "-c", EVERY_MODULE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(without))
    assert done.stdout.strip().endswith("('onnx', 'ort', 'trt', 'trt-rtx', 'torch-trt')")


def test_commands_work_for_the_others(without: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "nacdeploy.toml").write_text(SETTINGS)
    done = python(without, "-c", COMMANDS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifact" / "manifest.json").is_file()
    assert "target openvino" not in done.stdout


def test_its_name_is_refused_in_one_line(without: Path) -> None:
    code = "from nacdeploy import profile; profile.from_mapping({'name': 'p', 'target': 'openvino'})"
    done = python(without, "-c", code)
    *_, line = done.stderr.strip().splitlines()
    assert "unknown target 'openvino'" in line and "known: onnx, ort, torch-trt, trt, trt-rtx" in line


@pytest.mark.slow
def test_suites_pass_without_it(without: Path) -> None:
    done = python(without, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES)
    assert done.returncode == 0, done.stdout[-4000:]
