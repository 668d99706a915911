"""Letters at work: the operator of a link, the reasons why it does not apply, and the check of a chain."""

from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.base import plugins
from nacdeploy.base.errors import NacdeployError, UnexpectedError, UsageError
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.operators.base import Closes, Operator
from nacdeploy.strategies.operators.others import GROUP
from nacdeploy.strategies.state import CompressionState


@cache
def kind(letter: str) -> type[Operator[Any]]:
    """Return the operator of a letter, imported on first use.

    Raises:
        UsageError: no operator has this letter, or the operator of another package cannot be imported.
    """
    found = profiles.letters().get(letter)
    if found is None:
        raise UsageError(unknown(letter))
    try:
        operator: type[Operator[Any]] = plugins.load(EntryPoint(letter, found.operator, GROUP))
    except UsageError as error:
        raise UsageError(f"operator '{letter}' of package {found.package}: {error}") from error
    if operator.letter != letter:
        raise UsageError(f"{found.operator} of package {found.package} has the letter {operator.letter}, not {letter}")
    return operator


def unknown(letter: str, where: str = "") -> str:
    """Return the message for a letter without an operator, with the problems of other packages' operators."""
    text = f"unknown operator '{letter}'{where}; known: {' '.join(profiles.letters())}"
    return "; ".join((text, *profiles.problems()))


def versions(letters: set[str]) -> dict[str, int]:
    """Return the version of every operator of `letters`: results depend on it."""
    return {letter: kind(letter).version for letter in sorted(letters) if letter in profiles.letters()}


def make(link: Link, profile: Profile) -> Operator[Any]:
    """Make the operator of one link with the profile's settings and the link's own parameters.

    Raises:
        UsageError: unknown letter or parameter.
    """
    return kind(link.letter).configure(profile, dict(link.parameters))


def refusal(operator: Operator[Any], state: CompressionState) -> str | None:
    """Return why an operator does not apply to a state: an earlier letter's reason, or its own.

    Raises:
        UnexpectedError: the operator failed in a way that nobody foresaw.
    """
    try:
        return _closed(state, operator.letter) or operator.refusal(state)
    except NacdeployError:
        raise
    except Exception as error:
        what = f"{operator.letter} ({operator.name}) fails on '{state.chain}' before it is decided"
        raise UnexpectedError(what, error) from error


def _closed(state: CompressionState, letter: str) -> str | None:
    """Return why a step of a state's chain forbids such a letter, or None if all steps allow it."""
    for step in state.steps:
        before: Any = kind(step.link.letter)
        if isinstance(before, Closes) and (reason := before.closed_to(step.decision, letter)) is not None:
            return reason
    return None


def why_masked(operator: Operator[Any], state: CompressionState) -> str | None:
    """Return why a search does not try an operator on a state: its refusal, or the failure of the question."""
    try:
        return refusal(operator, state)
    except UnexpectedError as error:
        return str(error)


def check(chain: Chain, profile: Profile) -> None:
    """Refuse a chain with unknown letters or parameters, with the position of the first.

    Raises:
        UsageError: names the letter, its position and the known ones.
    """
    for position, link in enumerate(chain, start=1):
        if link.letter not in profiles.letters():
            raise UsageError(unknown(link.letter, f" at position {position} of '{chain}'"))
        try:
            make(link, profile)
        except UsageError as error:
            raise UsageError(f"{error} (position {position} of '{chain}')") from error
