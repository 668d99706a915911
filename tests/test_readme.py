"""What README.md says exists: commands and their options, letters, models, data sets, targets, links."""

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from nacdeploy import profile as profiles
from nacdeploy.cli.main import COMMANDS, cli
from nacdeploy.data import SOURCES
from nacdeploy.exporters.targets import FOLDERS
from nacdeploy.models import BUILT_IN
from nacdeploy.profile import shipped_names
from nacdeploy.strategies import catalog
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.steps import letters

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES = [line.split("#")[0] for line in re.findall(r"^    (nacdeploy .+)$", README, re.MULTILINE)]
INLINE = re.findall(r"`(nacdeploy [^`]+)`", README)


def rows(head: str) -> list[list[str]]:
    """The cells of the table under a header row that begins with `head`."""
    lines = README[README.index(head) :].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def parse(line: str) -> click.Context:
    """A command line read by its own command, without being run."""
    _, name, *arguments = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    return command.make_context(name, arguments)


@pytest.mark.parametrize("line", [*LINES, *INLINE])
def test_command_line_parses(line: str) -> None:
    context = parse(line)
    given = context.params
    if given.get("profile"):
        assert given["profile"] in shipped_names() or [*(ROOT / "examples").rglob(given["profile"])]
    if given.get("target"):
        assert given["target"] in FOLDERS
    if given.get("strategy"):
        letters.check(Chain.parse(given["strategy"]), profiles.load("demo"))


def test_table_of_commands_is_whole() -> None:
    assert [cell.strip("`") for cell, *_ in rows("| command | does |")] == list(COMMANDS)


def test_options_named_in_the_table_of_commands_exist() -> None:
    for cell, *texts in rows("| command | does |"):
        command = cli.get_command(click.Context(cli), cell.strip("`"))
        assert command is not None
        known = {name for parameter in command.params for name in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", " ".join(texts))) <= known


def test_table_of_letters_is_that_of_the_operators() -> None:
    named = {letter: name for letter, name, _ in rows("| letter | operator |")}
    assert named == {letter: letters.kind(letter).__name__ for letter in profiles.letters()}


def test_parameters_of_letters_are_taken() -> None:
    (sentence,) = re.findall(r"Parameters are optional: (.+?)\.$", README, re.MULTILINE)
    for word in re.findall(r"`([^`]+)`", sentence):
        letters.check(Chain.parse(word), profiles.load("demo"))


def test_targets_models_and_data_sets_are_the_known_ones() -> None:
    assert {cell.strip("`") for cell, *_ in rows("| target | what is built |")} == set(FOLDERS)
    (named,) = re.findall(r"^- built in: (.+?), at any input size", README, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", named)) == set(BUILT_IN)
    (sources,) = re.findall(r"^Data:\n\n- (.+?) \(ImageFolder layout\)", README, re.MULTILINE)
    assert {name.partition(":")[0] for name in re.findall(r"`([\w:-]+)`", sources)} - {""} == set(SOURCES)


def test_catalog_name_is_published() -> None:
    for name in re.findall(r"catalog:([\w-]+\d\w*)", README):
        catalog.find(name)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
