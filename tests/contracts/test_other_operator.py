"""An operator of another package, from its entry point to its artifact: see `tests/site_packages/`.

A process reads its entry points once, so that what needs the package runs in one that finds it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SITE = TESTS / "site_packages"


def python(tmp_path: Path, *words: object, site: bool = True) -> subprocess.CompletedProcess[str]:
    """A Python that finds the other package where `site` says so."""
    paths = (*([SITE] if site else []), TESTS.parent, TESTS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("checked")
    options = ("-q", "-rA", "-p", "no:cacheprovider", f"--rootdir={TESTS.parent}", f"--basetemp={folder / 'inner'}")
    return python(folder, "-m", "pytest", SITE / "clipping_checks.py", *options)


@pytest.mark.parametrize(
    "name",
    [
        "test_operator_keeps_law",
        "test_operator_moves_its_own_figure",
        "test_operator_changes_nothing_when_refused",
        "test_pair_of_letters_works",
        "test_f_moves_ceilings_and_p_cuts_them",
        "test_checkpoint_and_memory_bring_back_the_same_bits",
        "test_letter_and_table_are_those_of_the_package",
        "test_search_tries_the_letter",
        "test_strategy_brings_the_table_of_the_letter",
        "test_artifact_holds_the_ceilings_and_agrees",
        "test_commands_read_what_the_letter_made",
    ],
)
def test_operator_of_another_package_passes(name: str, checked: subprocess.CompletedProcess[str]) -> None:
    told = [line for line in checked.stdout.splitlines() if f"::{name}" in line]
    assert told, checked.stdout + checked.stderr
    assert {line.split(" ")[0] for line in told} == {"PASSED"}, checked.stdout


def test_profile_is_read_without_torch_where_the_package_is_installed(tmp_path: Path) -> None:
    code = (
        "import sys; from nacdeploy import profile; print(profile.load('demo').clip.percentile, 'torch' in sys.modules)"
    )
    assert python(tmp_path, "-c", code).stdout == "99.0 False\n"


def test_letter_is_unknown_where_the_package_is_not_installed(tmp_path: Path) -> None:
    ran = python(tmp_path, "-c", "from nacdeploy.cli.main import main; main()", "show", "AQ", site=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "'A' is no letter of F P E Q S D C" in ran.stderr


def test_keys_of_this_packages_letters_do_not_depend_on_what_is_installed(tmp_path: Path) -> None:
    code = (
        "from nacdeploy import profile; from nacdeploy.base import records; "
        "print(records.sha256_data(profile.load('demo').model_dump()))"
    )
    with_it, without = (python(tmp_path, "-c", code, site=site).stdout for site in (True, False))
    assert with_it == without != ""
