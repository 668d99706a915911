"""Jobs of an experiment that nacdeploy itself runs: in this process, or by a pool of workers that take plain data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nacdeploy import models
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.progress import Progress, Silent
from nacdeploy.experiments.config import grammar
from nacdeploy.experiments.config.grammar import Experiment
from nacdeploy.experiments.config.selection import Selection, select
from nacdeploy.experiments.driver.jobs import Attempt, Job, Report
from nacdeploy.experiments.driver.reporting import MODEL
from nacdeploy.experiments.procedures import compressors
from nacdeploy.experiments.procedures.run import SLIM, Run
from nacdeploy.experiments.script.script_run import initial
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Settings
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.search import objective
from nacdeploy.strategies.state import CompressionState, plain_key
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.task import Task
from nacdeploy.task.answers import answered
from nacdeploy.trials.evaluator import figures_of


def check_layers(experiment: Experiment, task: Task, profile: Profile, network: Network) -> None:
    """Refuse layers that are not there or cannot be compressed as asked, whatever values are proposed.

    Raises:
        UsageError: names them, with the nearest.
    """
    compression = experiment.compression
    selection = _selected(experiment, network.backbone, compression.config_list)
    compressors.check(
        compression.compressor, Run(initial(network, None), task, profile, selection, compression.settings)
    )


def _selected(experiment: Experiment, backbone: nn.Module, entries: Sequence[dict[str, Any]]) -> Selection:
    """Return the layers that entries mean in a network."""
    return select(entries, backbone, with_norms=experiment.compression.compressor == SLIM)


class _StoppedEarly(Exception):  # noqa: N818 - it is no error
    """A job ends early; no failure, so no NacdeployError."""


@dataclass
class OwnWorker:
    """Runs jobs in this process, one after the other: a compressor on the session's baseline."""

    experiment: Experiment
    session: Session
    progress: Progress

    def __call__(self, jobs: Sequence[Job], report: Report) -> list[Attempt]:
        return [self._attempt(job, report) for job in jobs]

    def _attempt(self, job: Job, report: Report) -> Attempt:
        seen: list[float] = []
        notes: list[str] = []
        watch = Stopwatch()

        def noted(quality: float) -> None:
            seen.append(quality)
            if self.experiment.metric == "accuracy" and report(job, len(seen), quality):
                raise _StoppedEarly

        def say(line: str) -> None:
            if line not in notes:
                notes.append(line)
                self.progress.say(line)

        try:
            state, profile = self._compressed(job, noted, say)
        except _StoppedEarly:
            return Attempt(None, tuple(seen), stopped=True, seconds=watch.seconds(), notes=tuple(notes))
        except UsageError:
            raise
        except NacdeployError as error:
            return Attempt(None, tuple(seen), str(error), seconds=watch.seconds(), notes=tuple(notes))
        self._keep(job, state, profile)
        value, chain = self._value(state), str(state.chain)
        return Attempt(value, tuple(seen), chain=chain, seconds=watch.seconds(), notes=tuple(notes))

    def _compressed(self, job: Job, noted: Any, say: Any) -> tuple[CompressionState, Profile]:
        session, compression = self.session, job.compression
        selection = _selected(self.experiment, session.baseline.network.backbone, compression.config_list)
        for note in selection.notes:
            say(note)
        start = session.baseline, session.task, session.profile
        run = Run(*start, selection, compression.settings, noted, say, memory=session.shelves)
        state = compressors.compress(compression.compressor, run)
        return state, run.last_profile

    def _keep(self, job: Job, state: CompressionState, profile: Profile) -> None:
        record = checkpoints.record_of(
            state, self.session.task, profile, baseline_checkpoint=str(self.session.baseline_folder)
        )
        with records.new_directory(job.folder / MODEL, replace=True) as folder:
            checkpoints.write(folder, state, record)

    def _value(self, state: CompressionState) -> float:
        """Return the metric of a state on validation: one of its figures, or the search's score, which is below 0 by
        the points lost where these are more than `search.max_drop`."""
        figures = figures_of(state, self.session.profile)
        if self.experiment.metric == "accuracy":
            return figures.quality
        if self.experiment.metric != "score":
            return float(getattr(figures, self.experiment.metric))
        goal = objective.make(self.session.profile.search, figures.scored_by.point(figures.chance_score))
        return goal.score(figures) if goal.admissible(figures) else -figures.drop_points


@dataclass
class PoolWorker:
    """Run the jobs of a window side by side on a pool whose workers were opened by `opened`: `submit` begins a job and
    returns a function that waits for its result. Intermediate results come with the end of a job: nothing stops
    early there."""

    submit: Callable[[Any], Callable[[], Any]]

    def __call__(self, jobs: Sequence[Job], report: Report) -> list[Attempt]:
        pending = [self.submit(records.to_data(job)) for job in jobs]
        attempts = [_result(each) for each in pending]
        for job, attempt in zip(jobs, attempts, strict=True):
            for step, value in enumerate(attempt.intermediates, start=1):
                report(job, step, value)
        return attempts


def _result(pending: Callable[[], Any]) -> Attempt:
    try:
        return records.from_data(Attempt, pending())
    except UsageError:
        raise
    except NacdeployError as error:
        return Attempt(error=str(error))


def setup_of(experiment: Mapping[str, Any], session: Session) -> dict[str, Any]:
    """Return the plain data that opens a worker."""
    profile = session.profile.model_dump(mode="json")
    spec = {"model": session.task.spec.name, "model_sha256": session.task.spec.source_sha256}
    spec["data_sha256"] = session.task.data.fingerprint
    return {"experiment": dict(experiment), "profile": profile, "baseline": str(session.baseline_folder), **spec}


def opened(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return a worker from plain data: called with a job as plain data, it answers with the attempt as plain data."""
    experiment = grammar.read(setup["experiment"]).experiment
    folder = Path(setup["baseline"])
    models.accept_here(setup["model"], setup["model_sha256"])
    baseline, record = checkpoints.load(folder)
    settings = Settings.of(profiles.from_mapping(setup["profile"]), "the experiment")
    made = tasks.make(record.model.located, settings.profile.data, settings.profile)
    if made.data.fingerprint != setup["data_sha256"]:
        raise NacdeployError(f"a worker finds other images in '{settings.profile.data}' than the experiment")
    task = answered(made, baseline.network, plain_key(baseline.network))
    baseline.network.set_grid(plain_network(task, settings.profile).grid)
    worker = OwnWorker(experiment, Session(settings, task, baseline, folder), Silent())
    return lambda job: records.to_data(worker([records.from_data(Job, job)], lambda *step: False)[0])
