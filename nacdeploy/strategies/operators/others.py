"""The letters of other packages, by their entry points."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

from nacdeploy.base import plugins
from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter

GROUP = "nacdeploy.operators"


@dataclass(frozen=True)
class OtherLetters:
    """The letters of other packages, and the problems of those left out, one line each."""

    letters: tuple[Letter, ...]
    problems: tuple[str, ...]


def others(own: Sequence[Letter], reserved: Iterable[str]) -> OtherLetters:
    """Load the letters that other packages register as entry points of the group `nacdeploy.operators`.

    A letter that does not load, or whose letter or table is taken (by one of `own`, by a `reserved` name), is left out.
    """
    letters: dict[str, Letter] = {each.letter: each for each in own}
    tables, problems = {*reserved, *(each.table for each in own)}, []
    for entry in plugins.entries(GROUP):
        found = _loaded(entry)
        problem = found if isinstance(found, str) else _why_not(found, letters, tables)
        if problem is not None or isinstance(found, str):
            problems.append(f"{plugins.called('operator', entry)} is left out: {problem}")
            continue
        letters[found.letter] = found
        tables.add(found.table)
    return OtherLetters(tuple(letters.values())[len(own) :], tuple(problems))


def _loaded(entry: EntryPoint) -> Letter | str:
    """Return the letter of an entry point, or why there is none."""
    try:
        found = plugins.load(entry)
    except UsageError as error:
        return str(error)
    if not isinstance(found, Letter):
        return f"{entry.value} is a {type(found).__name__}, not a Letter of nacdeploy.strategies.operators.letter"
    return replace(found, package=plugins.package(entry))


def _why_not(found: Letter, letters: dict[str, Letter], tables: set[str]) -> str | None:
    """Return why a letter cannot join the present letters, or None if it can."""
    if not (len(found.letter) == 1 and "A" <= found.letter <= "Z"):
        return f"'{found.letter}' is not one capital letter"
    if found.letter in letters:
        return f"the letter {found.letter} is taken by package {letters[found.letter].package}"
    if found.table in tables or not found.table.isidentifier():
        return f"the table [{found.table}] is taken, or is no name of a table"
    is_table = isinstance(found.settings, type) and issubclass(found.settings, Table)
    return None if is_table and not _required(found) else "its settings are no Table with a default for every key"


def _required(found: Letter) -> list[str]:
    return [name for name, field in found.settings.model_fields.items() if field.is_required()]
