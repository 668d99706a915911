"""What an operator is: a letter that refuses or decides, then performs; and its parameters in a chain."""

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

D = TypeVar("D")
TableT = TypeVar("TableT", bound=Table)


@dataclass(frozen=True)
class Recovery:
    """The training after a step: of the backbone, of the exit heads, or of both."""

    backbone: TrainTable | None = None
    heads: TrainTable | None = None


class Operator(Protocol[D]):
    """One letter: a frozen dataclass of its profile table plus the chain's parameters.

    `refusal` is about the model only; its text is mask, CLI error and report. `decide` looks at weights and data and
    changes nothing; its decision holds structure only and survives JSON. `perform` is deterministic surgery on a copy,
    without data and without training. `version` is part of the cache key: raise it when the operator's results change.
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
    """An operator that finds values anew from data after its surgery and before `settle`, in place; `former` is the
    network before it. The values travel in the state dict: loading replays `perform` alone."""

    def refit(self, network: Network, former: Network, decision: object, task: Task) -> None: ...


@runtime_checkable
class Keeps(Protocol):
    """An operator that leaves something of the network as it was: what its own end answers, bit for bit ("end"), the
    signal of its answers, down to eight bits ("signal"), or its score, where it is undone if that falls ("score")."""

    keeps: ClassVar[Literal["end", "signal", "score"]]


@runtime_checkable
class Closes(Protocol):
    """An operator after which not every letter may come: `closed_to` says why `letter` may not, None where it may.

    It is asked of every step of a chain, before the letter's own `refusal`.
    """

    @classmethod
    def closed_to(cls, decision: Any, letter: str) -> str | None: ...


@runtime_checkable
class Fits(Protocol):
    """An operator that looks at a decision from a file before it is performed: `misfit` says why it is none for this
    network (it names a layer that the network lacks, an index outside of an axis), None where it may be performed."""

    def misfit(self, network: Network, decision: Any) -> str | None: ...


def unknown_layer(names: Iterable[str], network: Network) -> str | None:
    """What to say of the first of some layers that a network lacks."""
    layers = network.layers
    for name in names:
        if name not in layers:
            return f"it names the layer '{name[:80]}', which the model lacks{nearest(name[:80], layers)}"
    return None


def with_parameters(
    letter: str, table: TableT, parameters: Mapping[str, Value], run_wide: tuple[str, ...] = ()
) -> TableT:
    """The profile table with a chain's parameters in place of its keys; `run_wide` names the keys that `settle` takes
    from the profile after every letter, so that one letter cannot have its own.

    Raises:
        UsageError: an unknown key (nearest named), one of `run_wide`, or a value that the table does not take.
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
        raise UsageError(f"{letter}({problem['loc'][0]}={problem['input']}): {problem['msg']}") from error


def kept_by(operator: Operator[Any]) -> str:
    """What an operator keeps of a network; "" of one that does not say."""
    return operator.keeps if isinstance(operator, Keeps) else ""


def decisions(state: CompressionState, kind: type[D]) -> list[D]:
    """The decisions of one kind along the state's history, oldest first."""
    return [step.decision for step in state.steps if isinstance(step.decision, kind)]
