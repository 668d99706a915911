"""Operators: a letter that refuses or decides, then performs; and its parameters in a chain."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

from pydantic import ValidationError

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.table import Table
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task.distillation import Distillation

_N_NAMED = 3
D = TypeVar("D")
TableT = TypeVar("TableT", bound=Table)


@dataclass(frozen=True)
class Recovery:
    """The training after a step: of the backbone, of the exit heads, or of both.

    `taught` says how the network that the chain started from teaches the backbone, and the backbone's end the heads;
    without it `heads_taught` says the latter.
    """

    backbone: TrainTable | None = None
    heads: TrainTable | None = None
    taught: Distillation | None = None
    heads_taught: Distillation | None = None


class Operator(Protocol[D]):
    """One letter: a frozen dataclass of its profile table plus the chain's parameters.

    `refusal` depends on the model alone. Its text is shown to the user; in a search it masks the letter. `decide` looks
    at weights and data and changes nothing; its decision holds structure only and survives JSON. `perform` is
    deterministic surgery on a copy, without data and without training. `version` is part of the cache key: raise it
    when the operator's results change.

        >>> from nacdeploy.profile import load
        >>> from nacdeploy.strategies.chain import Link
        >>> from nacdeploy.strategies.steps import letters
        >>> operator: Operator = letters.make(Link("P", (("ratio", 0.25),)), load("demo"))
        >>> operator.letter, operator.name, operator.table.ratio
        ('P', 'Prune', 0.25)
    """

    letter: ClassVar[str]
    name: ClassVar[str]
    version: ClassVar[int]
    decision_type: ClassVar[type]

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self: ...
    def refusal(self, state: CompressionState) -> str | None: ...
    def decide(self, state: CompressionState, task: Task) -> D: ...
    def perform(self, network: Network, decision: D) -> Network: ...
    def recovery(self, profile: Profile) -> Recovery | None: ...
    def explain(self, decision: D) -> str: ...


@runtime_checkable
class Refits(Protocol):
    """An operator that fits values to data after its surgery and before `settle`, in place.

    `former` is the network before the surgery. The values travel in the state dict: loading replays `perform` alone.

        >>> from nacdeploy.profile import load
        >>> from nacdeploy.strategies.chain import Link
        >>> from nacdeploy.strategies.steps import letters
        >>> [letter for letter in "PQE" if isinstance(letters.make(Link(letter), load("demo")), Refits)]
        ['P', 'Q']
    """

    def refit(self, network: Network, former: Network, decision: object, task: Task) -> None: ...


@runtime_checkable
class Calibrates(Protocol):
    """An operator whose decision may hold the ranges of quantized tensors by key, which `settle` then takes.

    >>> from nacdeploy.profile import load
    >>> from nacdeploy.strategies.chain import Link
    >>> from nacdeploy.strategies.steps import letters
    >>> [letter for letter in "PQE" if isinstance(letters.make(Link(letter), load("demo")), Calibrates)]
    ['Q']
    """

    def ranges(self, decision: Any) -> Mapping[str, tuple[float, float]]: ...


@runtime_checkable
class Keeps(Protocol):
    """An operator that keeps something of the network: the answers of its own end, bit for bit ("end"), the signal of
    its answers, down to eight bits ("signal"), or its score, with the step undone if the score falls ("score").

    >>> from nacdeploy.profile import load
    >>> from nacdeploy.strategies.chain import Link
    >>> from nacdeploy.strategies.steps import letters
    >>> letters.make(Link("E"), load("demo")).keeps
    'end'
    """

    keeps: ClassVar[Literal["end", "signal", "score"]]


@runtime_checkable
class Undoes(Protocol):
    """An operator that keeps the score and whose `perform` changes the network: `undone` returns the decision to record
    for a step that was undone, so that its replay returns the network from before the step.

        >>> from nacdeploy.profile import load
        >>> from nacdeploy.strategies.chain import Link
        >>> from nacdeploy.strategies.operators.finetune.operator import FinetuneDecision
        >>> from nacdeploy.strategies.steps import letters
        >>> finetune = letters.make(Link("F"), load("demo"))
        >>> finetune.undone(FinetuneDecision(finetune.table, weights="symmetric")).weights
        ''
    """

    def undone(self, decision: Any) -> Any: ...


@runtime_checkable
class Closes(Protocol):
    """An operator that some letters may not follow: `closed_to` returns the reason, or None if `letter` may follow.

    `closed_to` is called for every step of a chain, before the letter's own `refusal`.

        >>> from nacdeploy.profile import load
        >>> from nacdeploy.strategies.chain import Link
        >>> from nacdeploy.strategies.steps import letters
        >>> code = letters.make(Link("C"), load("demo"))
        >>> isinstance(code, Closes), code.closed_to(None, "F")
        (True, None)
    """

    @classmethod
    def closed_to(cls, decision: Any, letter: str) -> str | None: ...


@runtime_checkable
class Fits(Protocol):
    """An operator that checks a decision from a file before it is performed.

    `misfit` returns why the decision does not fit this network (it names a layer that the network lacks, an index
    outside an axis), or None if it may be performed.

        >>> from nacdeploy.profile import load
        >>> from nacdeploy.strategies.chain import Link
        >>> from nacdeploy.strategies.steps import letters
        >>> isinstance(letters.make(Link("P"), load("demo")), Fits)
        True
    """

    def misfit(self, network: Network, decision: Any) -> str | None: ...


def unknown_layer(names: Iterable[str], network: Network) -> str | None:
    """Return a line on the first of some layers that a network lacks, or None."""
    layers = network.layers
    for name in names:
        if name not in layers:
            return f"it names the layer '{name[:80]}', which the model lacks{nearest(name[:80], layers)}"
    return None


def with_parameters(
    letter: str, table: TableT, parameters: Mapping[str, Value], run_wide: tuple[str, ...] = ()
) -> TableT:
    """Return the profile table with a chain's parameters in place of its keys.

    `run_wide` names the keys that `settle` takes from the profile after every letter, so that no letter can have its
    own.

    Raises:
        UsageError: an unknown key (nearest named), a key of `run_wide`, or a value that the table does not take.
    """
    known = [key for key in type(table).model_fields if key not in run_wide]
    for key in parameters:
        if key in run_wide:
            raise UsageError(f"'{key}' holds for every letter of a chain: set it in the profile, not in {letter}(...)")
        if key not in known:
            raise UsageError(f"unknown parameter '{key}' of {letter}{nearest(key, known)}")
    try:
        return type(table).model_validate({**table.model_dump(), **parameters})
    except ValidationError as error:
        problem = error.errors()[0]
        said = ",".join(f"{key}={value}" for key, value in parameters.items())  # of several keys that do not agree
        where = f"{problem['loc'][0]}={problem['input']}" if problem["loc"] else said
        raise UsageError(f"{letter}({where}): {problem['msg'].removeprefix('Value error, ')}") from error


def listed(reasons: Mapping[str, str]) -> str:
    """List layers by the reason why an operator leaves them; of many layers, the first ones.

    >>> listed({"stem": "excluded", "head": "excluded"})
    'stem, head (excluded)'
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
        lines.append(f"{', '.join(names[:_N_NAMED])}{more} ({reason})")
    return ", ".join(lines)


def kept_by(operator: Operator[Any]) -> str:
    """Return what an operator keeps of a network, or "" if it does not say."""
    return operator.keeps if isinstance(operator, Keeps) else ""


def decisions(state: CompressionState, kind: type[D]) -> list[D]:
    """Return the decisions of one kind along the state's history, oldest first."""
    return [step.decision for step in state.steps if isinstance(step.decision, kind)]
