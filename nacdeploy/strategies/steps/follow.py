"""Transfer: a strategy carried over to a model, with every letter's decisions made anew on that model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from nacdeploy.base.errors import DivergedError, RefusedError
from nacdeploy.base.progress import nobody
from nacdeploy.network.cost import cost
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState, Step
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.advance import Memory, advance
from nacdeploy.task import Task, training


@dataclass(frozen=True)
class Refusal:
    """A letter that did not apply: its position in the chain (from 1) and the reason."""

    position: int
    link: str
    reason: str


@dataclass(frozen=True)
class Transferred:
    """The state at the end of a chain and the letters that were skipped on the way."""

    state: CompressionState
    skipped: tuple[Refusal, ...] = ()


def follow(
    chain: Chain,
    state: CompressionState,
    task: Task,
    profile: Profile,
    *,
    skip_refused: bool = False,
    memory: Memory | None = None,
    after: Callable[[CompressionState], None] = nobody,
    report: training.Report = nobody,
) -> Transferred:
    """Apply `chain`, which `letters.check` has let pass, letter by letter; F always runs.

    Raises:
        RefusedError: a letter does not apply, without `skip_refused`.
    """
    skipped: list[Refusal] = []
    for position, link in enumerate(chain, start=1):
        try:
            state = advance(state, link, task, profile, memory, report)
        except RefusedError as error:
            if not skip_refused:
                hint = "--skip-refused would leave it out"
                raise type(error)(f"{error} (position {position} of '{chain}'; {hint})") from error
            skipped.append(Refusal(position, str(link), str(error)))
        except DivergedError as error:
            raise DivergedError(f"{link} at position {position} of '{chain}': {error}") from error
        else:
            after(state)
    return Transferred(state, tuple(skipped))


@dataclass(frozen=True)
class Preview:
    """One letter of a dry run: its effect and the cost after it, or why it is refused."""

    link: str
    explanation: str
    macs: int
    bitops: int
    memory_bits: int
    refused: str | None = None


def previews(
    chain: Chain, state: CompressionState, task: Task, profile: Profile, skip_refused: bool = False
) -> list[Preview]:
    """Decide every letter on the structure it would find; no settling, no training, no measurement.

    Decisions after an F are made on weights that F would have changed, so that P may then choose other channels.
    """
    rows = []
    for link, after, refused in decided(chain, state, task, profile, skip_refused):
        now = after.metrics.cost
        explanation = letters.make(link, profile).explain(after.steps[-1].decision) if refused is None else "refused"
        rows.append(Preview(str(link), explanation, now.macs, now.bitops, now.memory_bits, refused))
    return rows


def decided(
    chain: Chain, state: CompressionState, task: Task, profile: Profile, skip_refused: bool = False
) -> Iterator[tuple[Link, CompressionState, str | None]]:
    """Yield every letter with the state that it leaves, decided and performed but not settled or trained, or with why
    it is refused; a refusal ends the chain, without `skip_refused`."""
    for link in chain:
        operator = letters.make(link, profile)
        refused = letters.refusal(operator, state)
        if refused is None:
            decision = operator.decide(state, task)
            network = operator.perform(state.network, decision)
            metrics = replace(state.metrics, cost=cost(network, task.example_input(), _all_to_the_end(network)))
            state = replace(state, network=network, metrics=metrics, steps=(*state.steps, Step(link, decision)))
        yield link, state, refused
        if refused is not None and not skip_refused:
            return


def _all_to_the_end(network: Network) -> tuple[float, ...]:
    """Return the exit fractions of a gate that is not calibrated: no image leaves early."""
    return (*[0.0] * len(network.exits), 1.0)


def post_finetune(
    state: CompressionState,
    n_epochs: int,
    task: Task,
    profile: Profile,
    report: training.Report = nobody,
    memory: Memory | None = None,
) -> CompressionState:
    """Apply one more F of `n_epochs` epochs by NAC's schedule (plateau by 0.2 after 5 epochs).

    100 epochs stop after 30 without gain, fewer in proportion.
    """
    plateau = (("schedule", "plateau"), ("plateau_factor", 0.2), ("plateau_patience", 5))
    patience = ("early_stop_patience", max(1, n_epochs * 3 // 10))
    link = Link("F", (("epochs", n_epochs), *plateau, patience))
    return advance(state, link, task, profile, memory, report)
