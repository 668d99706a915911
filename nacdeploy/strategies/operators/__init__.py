"""The operators by letter. Adding one: its own file and one line of OPERATORS."""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from nacdeploy.errors import NacdeployError, UnexpectedError, UsageError
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.operators.add_exits import AddExits
from nacdeploy.strategies.operators.base import Operator
from nacdeploy.strategies.operators.code import Code
from nacdeploy.strategies.operators.decompose import Decompose
from nacdeploy.strategies.operators.finetune import Finetune
from nacdeploy.strategies.operators.prune import Prune
from nacdeploy.strategies.operators.quantize import Quantize
from nacdeploy.strategies.operators.sparsify import Sparsify
from nacdeploy.strategies.state import CompressionState

OPERATORS: tuple[type[Operator[Any]], ...] = (Finetune, Prune, AddExits, Quantize, Sparsify, Decompose, Code)


def by_letter() -> dict[str, type[Operator[Any]]]:
    """All operators, third parties' from the entry point group `nacdeploy.operators` included."""
    return {operator.letter: operator for operator in (*_others(), *OPERATORS)}


@cache
def _others() -> tuple[type[Operator[Any]], ...]:
    """Third parties' operators, looked for once: a search makes operators all the time."""
    return tuple(entry.load() for entry in entry_points(group="nacdeploy.operators"))


def versions() -> dict[str, int]:
    """The version of every operator by letter: results depend on it."""
    return {letter: kind.version for letter, kind in sorted(by_letter().items())}


def make(link: Link, profile: Profile) -> Operator[Any]:
    """The operator of one link with the profile's settings and the link's own parameters.

    Raises:
        UsageError: unknown letter or parameter.
    """
    known = by_letter()
    if link.letter not in known:
        raise UsageError(f"unknown operator '{link.letter}'; known: {' '.join(known)}")
    return known[link.letter].configure(profile, dict(link.parameters))


def refusal(operator: Operator[Any], state: CompressionState) -> str | None:
    """Why an operator does not apply to a state: what the state is closed to, or the operator's own reason.

    Raises:
        UnexpectedError: the operator failed in a way that nobody foresaw.
    """
    try:
        return state.closed_to(operator.letter) or operator.refusal(state)
    except NacdeployError:
        raise
    except Exception as error:
        what = f"{operator.letter} ({operator.name}) fails on '{state.chain}' before it is decided"
        raise UnexpectedError(what, error) from error


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
        try:
            make(link, profile)
        except UsageError as error:
            if link.letter in by_letter():
                raise UsageError(f"{error} (position {position} of '{chain}')") from error
            known = " ".join(by_letter())
            text = f"unknown operator '{link.letter}' at position {position} of '{chain}'; known: {known}"
            raise UsageError(text) from error
