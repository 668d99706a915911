"""Proposers: Optuna's samplers behind names old and new, their study kept in a journal file that resumes.

Every proposal's sampler is seeded from the seed and the proposal's number, so that an experiment that was killed goes
on as it would have gone.
"""

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.experiments.config.space import Space
from nacdeploy.experiments.config.vocabulary import ENDING

FILE = "study.jsonl"
_NAME = "experiment"
_PLACE = "#"  # behind the name of what is told to Optuna by its place; choices may be anything, lists included
_N_SEEDS = 2**32  # numpy takes no larger ones


@dataclass(frozen=True)
class Proposal:
    """A proposal by its number, and the values that it proposes by name."""

    number: int
    proposal: dict[str, Any]


class Study:
    """Proposals of one experiment and what came of them. Made by `opened` or `in_memory`."""

    def __init__(self, study: optuna.Study, proposer: str, spaces: Sequence[Space], seed: int) -> None:
        self._study, self._proposer, self._spaces, self._seed = study, proposer, tuple(spaces), seed
        self._grid = _grid(spaces) if proposer == "grid" else None
        self._trials: dict[int, optuna.Trial] = {}

    @property
    def size(self) -> int | None:
        """The number of proposals in all, or None without an end."""
        return len(self._grid) if self._grid is not None else None

    def unfinished(self) -> list[Proposal]:
        """Proposals whose job was under way when the experiment was stopped, in their order."""
        found = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
        return [self._resumed(trial.number, trial._trial_id) for trial in found]

    def results(self) -> dict[int, float | None]:
        """Return the value of every finished proposal, None for a failed or stopped one."""
        done = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)
        trials = self._study.get_trials(deepcopy=False, states=done)
        return {t.number: t.value if t.state == TrialState.COMPLETE else None for t in trials}

    def ask(self) -> Proposal:
        """Return the next proposal."""
        number = len(self._study.get_trials(deepcopy=False))
        with _quiet():
            self._study.sampler = _sampler(self._proposer, self._seed + 7919 * number)
            if self._grid is not None:
                self._study.enqueue_trial(self._as_told(self._grid[number % len(self._grid)]))
            trial = self._study.ask()
            return self._with_values(trial)

    def report(self, asked: Proposal, step: int, value: float) -> bool:
        """Note an intermediate value; whether the proposer (Hyperband, ASHA) stops the job there."""
        trial = self._trials[asked.number]
        with _quiet():
            trial.report(value, step)
            return self._proposer in ENDING and trial.should_prune()

    def intermediates(self, asked: Proposal) -> list[dict[int, float]]:
        """Return the intermediate values by step of all other proposals."""
        trials = self._study.get_trials(deepcopy=False)
        return [dict(t.intermediate_values) for t in trials if t.number != asked.number and t.intermediate_values]

    def tell(self, asked: Proposal, value: float | None, *, stopped: bool = False) -> None:
        """Note the value of a finished job, None for a failed one; `stopped` marks a job that ended early."""
        state = TrialState.PRUNED if stopped else TrialState.FAIL if value is None else TrialState.COMPLETE
        with _quiet():
            self._study.tell(self._trials[asked.number], None if state != TrialState.COMPLETE else value, state=state)

    def _resumed(self, number: int, trial_id: int) -> Proposal:
        with _quiet():
            self._study.sampler = _sampler(self._proposer, self._seed + 7919 * number)
            return self._with_values(optuna.trial.Trial(self._study, trial_id))

    def _with_values(self, trial: optuna.Trial) -> Proposal:
        self._trials[trial.number] = trial
        return Proposal(trial.number, {space.name: _suggested(trial, space) for space in self._spaces})

    def _as_told(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        by_name = {space.name: space for space in self._spaces}
        return dict(_told(by_name[name], value) for name, value in proposal.items())


@contextmanager
def opened(
    path: Path,
    proposer: str,
    spaces: Sequence[Space],
    target: str,
    seed: int,
    *,
    fingerprint: str = "",
    max_iter: int = 81,
    eta: int = 3,
) -> Iterator[Study]:
    """Yield the study in a journal file, begun or gone on with.

    Raises:
        UsageError: the file belongs to another experiment, or the proposer cannot search these spaces.
    """
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    with _made(storage, proposer, spaces, target, seed, max_iter, eta) as study:
        theirs = study._study.user_attrs.get("fingerprint", fingerprint)
        if theirs != fingerprint:
            raise UsageError(f"{path} belongs to another experiment; --resume takes the folder of this one")
        study._study.set_user_attr("fingerprint", fingerprint)
        yield study


@contextmanager
def in_memory(proposer: str, spaces: Sequence[Space], target: str, seed: int) -> Iterator[Study]:
    """Yield a study that is forgotten at the end."""
    with _made(optuna.storages.InMemoryStorage(), proposer, spaces, target, seed, 81, 3) as study:
        yield study


@contextmanager
def _made(
    storage: Any, proposer: str, spaces: Sequence[Space], target: str, seed: int, max_iter: int, eta: int
) -> Iterator[Study]:
    check(proposer, spaces)
    with _quiet():
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            load_if_exists=True,
            direction="maximize" if target == "max" else "minimize",
            sampler=_sampler(proposer, seed),
            pruner=_pruner(proposer, max_iter, eta),
        )
    yield Study(study, proposer, spaces, seed)


def check(proposer: str, spaces: Sequence[Space]) -> None:
    """Refuse spaces that a proposer cannot search.

    Raises:
        UsageError: a grid over a range of floats without `interval` or `n`; every such space is named.
    """
    if proposer == "grid":
        endless = [space.name for space in spaces if space.values() is None]
        if endless:
            raise UsageError(
                f"proposer 'grid': {', '.join(endless)} needs 'interval' or 'n' beside its range of floats"
            )


def _grid(spaces: Sequence[Space]) -> list[dict[str, Any]]:
    """Return all combinations, the last space running fastest."""
    names = [space.name for space in spaces]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(s.values() or () for s in spaces))]


def _told(space: Space, value: Any) -> tuple[str, Any]:
    """Return a parameter of Optuna and its value for a value of a space."""
    if not space.is_told_by_place:
        return space.name, value
    return space.name + _PLACE, (space.values() or ()).index(value)


def _suggested(trial: optuna.Trial, space: Space) -> Any:
    values = space.values()
    if space.kind == "choice":
        return space.range[trial.suggest_categorical(space.name + _PLACE, list(range(len(space.range))))]
    if values is not None and space.is_told_by_place:
        return values[trial.suggest_int(space.name + _PLACE, 0, len(values) - 1)]
    low, high = space.range
    if space.kind == "int":
        return trial.suggest_int(space.name, low, high, step=max(1, round(space.step or 1)))
    if values is not None and len(values) == 1:
        return values[0]
    return space.rounded(trial.suggest_float(space.name, low, high, step=space.step))


def _sampler(proposer: str, seed: int) -> optuna.samplers.BaseSampler:
    seed %= _N_SEEDS
    if proposer in ("tpe", "bohb"):
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    if proposer == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if proposer == "gp":
        return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(proposer: str, max_iter: int, eta: int) -> optuna.pruners.BasePruner:
    if proposer in ("hyperband", "bohb"):
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max_iter, reduction_factor=eta)
    if proposer == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=eta)
    return optuna.pruners.NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log lines and its warnings about what is experimental."""
    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fingerprint(data: Any) -> str:
    """Return the hash of the facts that must be the same for an experiment to continue."""
    return records.sha256_data(data)
