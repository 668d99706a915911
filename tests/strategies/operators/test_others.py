"""Letters of other packages: what their entry points bring, and what is said of those that bring nothing."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import lay_out, lay_out_letter

from nacdeploy.profile import Profile
from nacdeploy.strategies.operators import OPERATORS
from nacdeploy.strategies.operators.others import OtherLetters, others

ROOT = Path(__file__).parents[3]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` in which a test installs packages; their modules are gone afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def found() -> OtherLetters:
    return others(OPERATORS, Profile.model_fields)


def test_letter_of_another_package_is_found_with_its_package(site: Path) -> None:
    lay_out_letter(site, "shrink", "X", "shrink")
    (letter,) = found().letters
    assert (letter.letter, letter.table, letter.package) == ("X", "shrink", "the-shrink")
    assert letter.settings().model_dump() == {"strength": 0.5}
    assert found().problems == ()


@pytest.mark.parametrize(
    ("letter", "table", "reason"),
    [
        ("P", "shrink", "the letter P is taken by package nacdeploy"),
        ("X", "prune", r"the table \[prune\] is taken"),
        ("X", "search", r"the table \[search\] is taken"),
        ("x", "shrink", "'x' is not one capital letter"),
    ],
)
def test_letter_that_is_taken_is_named_and_the_rest_stays(letter: str, table: str, reason: str, site: Path) -> None:
    lay_out_letter(site, "shrink", letter, table)
    lay_out_letter(site, "widen", "W", "widen")
    (problem,) = found().problems
    assert problem.startswith("operator 'shrink' of package the-shrink is left out: ")
    assert re.search(reason, problem)
    assert [each.letter for each in found().letters] == ["W"]


def test_second_package_with_the_same_letter_is_told_the_first(site: Path) -> None:
    lay_out_letter(site, "shrink", "X", "shrink")
    lay_out_letter(site, "widen", "X", "widen")
    assert [each.package for each in found().letters] == ["the-shrink"]
    assert "the letter X is taken by package the-shrink" in found().problems[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_of_this_name", "does not load (ModuleNotFoundError: No module named 'nothing_of_this_name')"),
        ("LETTER = 3", "broken:LETTER is a int, not a Letter"),
    ],
)
def test_entry_point_that_brings_no_letter_is_named(text: str, reason: str, site: Path) -> None:
    lay_out(site, "the-broken", "broken", text)
    (problem,) = found().problems
    assert problem.startswith("operator 'broken' of package the-broken is left out: ")
    assert reason in problem


def test_command_line_names_what_is_left_out_and_goes_on(tmp_path: Path) -> None:
    lay_out(tmp_path, "the-broken", "broken", "import nothing_of_this_name")
    ran = command(tmp_path, "show", "QPX")
    assert ran.returncode == 2
    assert ran.stderr.startswith("warning: operator 'broken' of package the-broken is left out")
    assert command(tmp_path, "show", "QP").stdout.startswith("strategy QP: Quantize -> Prune")
    doctor = command(tmp_path, "doctor")
    assert doctor.returncode == 1
    assert "operator 'broken' of package the-broken is left out" in doctor.stdout


def test_profile_has_a_table_of_another_package_and_writes_it_where_it_says_something(tmp_path: Path) -> None:
    lay_out_letter(tmp_path, "shrink", "X", "shrink")
    code = (
        "import sys; from nacdeploy import profile\n"
        "plain, given = (profile.from_mapping({'name': 'p', **t}) for t in ({}, {'shrink': {'strength': 2}}))\n"
        "print(plain.shrink.strength, 'shrink' in plain.model_dump(), given.model_dump()['shrink'])\n"
        "print(profile.from_mapping(given.model_dump(mode='json')) == given, 'torch' in sys.modules)\n"
        "profile.from_mapping({'name': 'p', 'shrink': {'strenth': 2}})"
    )
    ran = python(tmp_path, "-c", code)
    assert ran.stdout.splitlines() == ["0.5 False {'strength': 2.0}", "True False"]
    assert "unknown key 'shrink.strenth'; did you mean 'strength'?" in ran.stderr


def test_operator_that_cannot_be_imported_is_named_with_its_package(tmp_path: Path) -> None:
    lay_out_letter(tmp_path, "shrink", "X", "shrink")  # its module has a table, and no operator
    ran = command(tmp_path, "show", "QX")
    assert ran.returncode == 2
    assert "operator 'X' of package the-shrink: shrink:Shrink does not load (AttributeError" in ran.stderr


def command(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that finds the packages of `site`."""
    return python(site, "-c", "from nacdeploy.cli.main import main; main()", *words)


def python(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(site), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=site)
