"""The wheel and the editable install both find the shipped profiles."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from nacdeploy import profile

ROOT = Path(__file__).parent.parent
SHIPPED = {path.name for path in (ROOT / "profiles").iterdir()}
FIND = "from nacdeploy import profile; print(profile.__file__); print(*profile.shipped_names())"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that nothing is written into the repository."""
    pytest.importorskip("hatchling")
    copy = tmp_path_factory.mktemp("project")
    for name in ("nacdeploy", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(project: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(project / "out")]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    (built,) = (project / "out").glob("*.whl")
    return built


def test_wheel_holds_profiles_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"nacdeploy/profiles/{name}" for name in SHIPPED} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_unpacked_wheel_finds_its_own_profiles(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    assert_finds_profiles([sys.executable, "-c", FIND], tmp_path, inside=tmp_path, PYTHONPATH=str(tmp_path))


def test_working_tree_finds_the_repository_s_profiles() -> None:
    assert profile.shipped_directory() == ROOT / "profiles"


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True])
def test_installed_package_finds_profiles_and_has_its_command(
    project: Path, wheel: Path, tmp_path: Path, editable: bool
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    # The heavy dependencies are borrowed from the running environment instead of being installed again.
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    what = ["--no-build-isolation", "-e", str(project)] if editable else [str(wheel)]
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--no-index", *what], check=True, capture_output=True)
    assert_finds_profiles([str(python), "-c", FIND], tmp_path, inside=project if editable else site)
    assert (python.parent / "nacdeploy").exists()


def assert_finds_profiles(command: list[str], directory: Path, *, inside: Path, **variables: str) -> None:
    """The answer comes from `inside`, and not from the repository that pytest runs in."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    answer = subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True, text=True)
    where, names = answer.stdout.splitlines()
    assert Path(where).is_relative_to(inside)
    assert names.split() == profile.shipped_names()
