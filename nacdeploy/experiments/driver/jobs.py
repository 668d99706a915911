"""The jobs of an experiment: proposed in windows, run by a worker, tried again where they fail, each kept as a row.

What runs a job is behind `Worker`: in this process, or scripts as processes of their own.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.progress import Say, nobody
from nacdeploy.experiments.config.grammar import Compression, Experiment
from nacdeploy.experiments.driver.early_stop import falls_behind
from nacdeploy.experiments.driver.proposers import Proposal, Study
from nacdeploy.experiments.driver.reporting import MODEL

ROW_FILE = "job.json"
DONE, FAILED, STOPPED = "done", "failed", "stopped"


@dataclass(frozen=True)
class Job:
    """One compression to run, and the folder that it has for itself."""

    number: int
    compression: Compression
    folder: Path


@dataclass(frozen=True)
class Attempt:
    """The outcome of running a job once: its value, or why it has none."""

    value: float | None = None
    intermediates: tuple[float, ...] = ()
    error: str | None = None
    stopped: bool = False
    chain: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobRow:
    """job.json: what was proposed, and what came of it."""

    number: int
    proposal: dict[str, Any]
    config_list: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    status: str
    value: float | None
    intermediates: tuple[float, ...] = ()
    error: str | None = None
    chain: str = ""
    n_tries: int = 1
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    schema: int = records.SCHEMA_VERSION


Report = Callable[[Job, int, float], bool]


# A function that runs a window of jobs and returns their attempts in the same order. `report(job, step, value)` takes
# an intermediate value, with steps counted from 1, and returns whether the job ends at that step. A job keeps its model
# in `job.folder / MODEL`.
Worker = Callable[[Sequence[Job], Report], list[Attempt]]


@dataclass
class Jobs:
    """The jobs of one experiment under way, in the folder `place`."""

    experiment: Experiment
    study: Study
    place: Path
    worker: Worker
    say: Say = nobody
    rows: dict[int, JobRow] = field(default_factory=dict)

    def run(self, n_jobs: int) -> list[JobRow]:
        """Run the remaining ones of `n_jobs` jobs; return all rows, including those of an earlier start.

        Raises:
            NacdeployError: a job keeps failing and `job_failure.ignore_fail` is not set; finished jobs are kept.
        """
        n_jobs = min(n_jobs, self.study.size or n_jobs)
        self.rows = {n: row for n in self.study.results() if (row := self._row(n)) is not None}
        waiting = self.study.unfinished()
        while waiting or len(self.study.results()) < n_jobs:
            n_more = min(self.experiment.n_parallel, n_jobs - len(self.study.results()))
            window = waiting[: self.experiment.n_parallel] or [self.study.ask() for _ in range(n_more)]
            waiting = waiting[len(window) :]
            self._window(window)
        return [self.rows[number] for number in sorted(self.rows)]

    def best(self) -> JobRow | None:
        """Return the job with the best value, of equal ones the first; None where none has a value."""
        sign = 1 if self.experiment.target == "max" else -1
        done = [row for _, row in sorted(self.rows.items()) if row.value is not None]
        return max(done, key=lambda row: sign * row.value, default=None)  # type: ignore[operator]

    def folder(self, number: int) -> Path:
        """Return the folder of a job."""
        return self.place / "jobs" / f"{number:04d}"

    def _window(self, window: Sequence[Proposal]) -> None:
        jobs = [Job(a.number, self.experiment.filled(a.proposal), self.folder(a.number)) for a in window]
        tries = dict.fromkeys((job.number for job in jobs), 0)
        attempts: dict[int, Attempt] = {}
        left = jobs
        while left:
            for job in left:
                tries[job.number] += 1
                _emptied(job.folder)
            done = self.worker(left, self._report)
            attempts |= {job.number: attempt for job, attempt in zip(left, done, strict=True)}
            failed = [job for job, attempt in zip(left, done, strict=True) if attempt.error]
            left = [job for job in failed if tries[job.number] <= self.experiment.job_failure.job_retries]
        for asked, job in zip(window, jobs, strict=True):
            self._keep(asked, job, attempts[job.number], tries[job.number])
        self._check_failures(window, attempts)

    def _keep(self, asked: Proposal, job: Job, attempt: Attempt, n_tries: int) -> None:
        status = FAILED if attempt.error else STOPPED if attempt.stopped else DONE
        row = JobRow(
            number=job.number,
            proposal=asked.proposal,
            config_list=job.compression.config_list,
            settings=job.compression.settings,
            status=status,
            value=attempt.value if status == DONE else None,
            intermediates=attempt.intermediates,
            error=attempt.error,
            chain=attempt.chain,
            n_tries=n_tries,
            seconds=attempt.seconds,
            notes=attempt.notes,
        )
        records.write_json(job.folder / ROW_FILE, row)
        self.rows[row.number] = row
        self.say(_line(row))
        if status != FAILED or self.experiment.job_failure.ignore_fail:
            self.study.tell(asked, row.value, stopped=status == STOPPED)
            self._drop_models()

    def _drop_models(self) -> None:
        """Only the best job's model stays."""
        best = self.best()
        for row in self.rows.values():
            if best is None or row.number != best.number:
                shutil.rmtree(self.folder(row.number) / MODEL, ignore_errors=True)

    def _check_failures(self, window: Sequence[Proposal], attempts: dict[int, Attempt]) -> None:
        failed = [asked.number for asked in window if attempts[asked.number].error]
        if failed and not self.experiment.job_failure.ignore_fail:
            raise NacdeployError(
                f"job {failed[0]} failed: {attempts[failed[0]].error} (job_failure.ignore_fail would go on without it; "
                f"what was done is kept: --resume {self.place})"
            )

    def _report(self, job: Job, step: int, value: float) -> bool:
        asked = Proposal(job.number, {})
        stops = self.study.report(asked, step, value)
        policy = self.experiment.resource_args.early_stop
        if policy is None:
            return stops
        others = self.study.intermediates(asked)
        return stops or falls_behind(policy, step, value, others, self.experiment.target)

    def _row(self, number: int) -> JobRow | None:
        try:
            return records.read(JobRow, self.folder(number) / ROW_FILE)
        except UsageError:
            return None


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise NacdeployError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error


def _line(row: JobRow) -> str:
    """Return a row in one line."""
    asked = ", ".join(f"{name} {value}" for name, value in row.proposal.items())
    result = f"{row.value:.6g}" if row.value is not None else f"{row.status}{f': {row.error}' if row.error else ''}"
    return f"job {row.number}{f' ({asked})' if asked else ''}: {result}"
