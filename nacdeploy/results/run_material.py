"""The material of a run's page, which its folder holds: its profile and search, its result, or both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.forecasts.forecast import Forecast, Found
from nacdeploy.profile import Profile
from nacdeploy.sessions.resuming import JOURNAL, RUN_FILE
from nacdeploy.sessions.session import Scores
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.objective import make as make_objective
from nacdeploy.strategies.search.search_result import SearchResult, result_of
from nacdeploy.trials.dense import Candidate
from nacdeploy.trials.final import LatencyReport


class Member(Protocol):
    """A chain of a search's front, with its figures in full (`results.result.FrontMember`).

    >>> from nacdeploy.results.result import FrontMember
    >>> {"chain", "figures"} <= set(FrontMember.__dataclass_fields__)
    True
    """

    @property
    def chain(self) -> str: ...
    @property
    def figures(self) -> Figures: ...


class Finished(Protocol):
    """The facts of a result that a page tells (`results.result.Result`).

    >>> from nacdeploy import Result
    >>> {"chain", "scores", "figures"} <= set(Result.__dataclass_fields__)
    True
    """

    @property
    def kind(self) -> str: ...
    @property
    def chain(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def profile(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def baseline_checkpoint(self) -> str: ...
    @property
    def figures(self) -> Figures: ...
    @property
    def scores(self) -> Scores: ...
    @property
    def forecast(self) -> Forecast | None: ...
    @property
    def found(self) -> Found | None: ...
    @property
    def candidates(self) -> Sequence[Candidate]: ...
    @property
    def front(self) -> Sequence[Member]: ...
    @property
    def latency(self) -> LatencyReport | None: ...


@dataclass(frozen=True)
class Material:
    """The present content of a run's folder: its profile and search, its result, or both."""

    found: SearchResult | None
    profile: Profile | None
    result: Finished | None


def material(folder: Path, result: Finished | None) -> Material:
    """Read what a run's folder holds beside its result.

    Raises:
        UsageError: the folder holds neither a search nor a result.
    """
    if records.is_file(folder / JOURNAL) and records.is_file(folder / RUN_FILE):
        where = folder / RUN_FILE
        data: Any = records.read_json(where)
        recorded = data.get("profile") if isinstance(data, dict) else None
        if not isinstance(recorded, dict):
            raise UsageError(f"{where} records no settings")
        profile = profiles.from_mapping(recorded, where=str(where))
        rows = tuple(journal.read(folder / JOURNAL)[1])
        if not rows:
            raise UsageError(f"{folder} has evaluated nothing yet; ask again when its first chain is done")
        found = result_of(rows, make_objective(profile.search, _point(rows)))
        return Material(found if result is None else _in_full(found, result), profile, result)
    if result is None:
        raise UsageError(
            f"{folder} holds neither a search nor a result; report takes the folder of a run, as 'runs/search-1'"
        )
    return Material(None, None, result)


def _in_full(found: SearchResult, result: Finished) -> SearchResult:
    """Return a search with the figures that its end counted and timed in full: those of its front and its answer."""
    known = {member.chain: member.figures for member in result.front}
    if not dense_answer(result):
        known[result.chain] = known.get(result.chain, result.figures)
    rows = tuple(replace(e, figures=known.get(e.chain, e.figures)) for e in found.evaluations)
    front = tuple(e for e in rows if e.chain in {member.chain for member in result.front})
    by_chain = {e.chain: e for e in rows}
    best, nearest = (by_chain[e.chain] if e else None for e in (found.best, found.nearest))
    return replace(found, evaluations=rows, front=front or found.front, best=best, nearest=nearest)


def _point(rows: Sequence[Evaluation]) -> float:
    """Return one point in the unit of the search's metric."""
    untouched = rows[0].figures
    return 1.0 if untouched is None else untouched.scored_by.point(untouched.chance_score)


def dense_answer(result: Finished) -> Candidate | None:
    """Return the dense network that a search by time answered with; None if its answer is a chain."""
    return next((each for each in result.candidates if each.is_answer and each.is_dense), None)
