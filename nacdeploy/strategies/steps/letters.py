"""Letters at work: the operator of a link, why it does not apply, and whether a chain can be read."""

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
    """The operator of a letter, imported when it is first asked for.

    Raises:
        UsageError: no operator has this letter, or that of another package cannot be imported.
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
    """What is said of a letter that no operator has; what other packages' operators lack with it."""
    text = f"unknown operator '{letter}'{where}; known: {' '.join(profiles.letters())}"
    return "; ".join((text, *profiles.problems()))


def versions(letters: set[str]) -> dict[str, int]:
    """The version of every operator of `letters`: results depend on it."""
    return {letter: kind(letter).version for letter in sorted(letters) if letter in profiles.letters()}


def make(link: Link, profile: Profile) -> Operator[Any]:
    """The operator of one link with the profile's settings and the link's own parameters.

    Raises:
        UsageError: unknown letter or parameter.
    """
    return kind(link.letter).configure(profile, dict(link.parameters))


def refusal(operator: Operator[Any], state: CompressionState) -> str | None:
    """Why an operator does not apply to a state: what a letter before it says, or its own reason.

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
    """Why a step of a state's chain lets no such letter follow, None where all do."""
    for step in state.steps:
        before: Any = kind(step.link.letter)
        if isinstance(before, Closes) and (reason := before.closed_to(step.decision, letter)) is not None:
            return reason
    return None


def why_masked(operator: Operator[Any], state: CompressionState) -> str | None:
    """Why a search does not try an operator on a state: its refusal, or the failure of asking for it."""
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
