"""Jobs that a user's own script runs: a process for each, its configuration handed over as a JSON file.

An experiment is data and may be anybody's: its script runs if the user has named the script itself (`models/trust.py`).

The process finds its folder in the environment variable NACDEPLOY_JOB and its configuration as the first argument. What
it reports is a line of results.jsonl; its output is kept in stdout.log and stderr.log.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.outside import doors
from nacdeploy.experiments.config.grammar import Experiment
from nacdeploy.experiments.driver.jobs import Attempt, Job, Report
from nacdeploy.experiments.driver.reporting import CONFIG_FILE, MODEL, RESULTS_FILE, VARIABLE, handed
from nacdeploy.models.users import project, trust

STDOUT, STDERR = "stdout.log", "stderr.log"
_POLL_S, _GRACE_S = 0.05, 5.0


def located(experiment: Experiment, beside: Path) -> tuple[Path, Path]:
    """Return the script and the folder it runs in: `workingdir`, else the folder of the experiment's file `beside`,
    else the current one.

    Raises:
        UsageError: there is no such script or folder.
    """
    given = Path(experiment.script or "").expanduser()
    places = [beside.parent, Path()]
    if experiment.workingdir is not None:
        places = [(place / Path(experiment.workingdir).expanduser()) for place in places]
    for place in places:
        if (place / given).is_file():
            return (place / given).absolute(), place.absolute()
    if not any(place.is_dir() for place in places):
        raise UsageError(f"workingdir {experiment.workingdir} does not exist")
    raise UsageError(f"script {experiment.script} does not exist in {places[0]}")


def named(script: Path) -> None:
    """Let a script run, since this user has named it."""
    found = project.read(script)
    trust.accept(found.path, found.sha256)


def check(script: Path) -> None:
    """Refuse a script that only an experiment names.

    Raises:
        UsageError: this user has not named the script in this content; the message has the option that does.
    """
    found, here = project.read(script), Path.cwd()
    shown = script.relative_to(here) if script.is_relative_to(here) else script
    trust.check(found.path, found.sha256, f"pass --script {shlex.quote(str(shown))}")


def _configuration(experiment: Experiment, job: Job, seed: int) -> dict[str, Any]:
    """Return what a script is handed as a job."""
    folder = str((job.folder / MODEL).absolute())
    return {**handed(experiment, job.compression, folder, seed), "job_id": job.number}


@dataclass
class ScriptWorker:
    """Runs the jobs of a window side by side."""

    experiment: Experiment
    script: Path
    directory: Path
    seed: int

    def __call__(self, jobs: Sequence[Job], report: Report) -> list[Attempt]:
        running = [self._started(job) for job in jobs]
        try:
            while [process for process in running if process.goes_on(report)]:
                time.sleep(_POLL_S)
        finally:
            for process in running:
                process.end()
        return [process.attempt() for process in running]

    def _started(self, job: Job) -> "_Process":
        folder = job.folder.absolute()
        records.write_json(folder / CONFIG_FILE, _configuration(self.experiment, job, self.seed))
        command = [sys.executable, str(self.script)] if self.script.suffix == ".py" else [str(self.script)]
        root = str(Path(__file__).absolute().parents[3])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        extra = {VARIABLE: str(folder), "PYTHONPATH": paths, "PYTHONHASHSEED": str(self.seed % 2**32)}
        try:
            with (folder / STDOUT).open("wb") as out, (folder / STDERR).open("wb") as err:
                process = subprocess.Popen(
                    [*command, str(folder / CONFIG_FILE)],
                    cwd=self.directory,
                    env={**os.environ, **extra},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
        except OSError as error:
            raise NacdeployError(f"{self.script} cannot be run: {error.strerror}; make it executable") from error
        return _Process(job, process, self.script.name)


@dataclass
class _Process:
    """One script under way, and its reports so far."""

    job: Job
    process: subprocess.Popen[bytes]
    script: str
    values: list[float] = field(default_factory=list)
    stopped: bool = False
    watch: Stopwatch = field(default_factory=Stopwatch)
    seconds: float | None = None

    def goes_on(self, report: Report) -> bool:
        """Tell whether the process still runs, and pass on its reports meanwhile."""
        if self.seconds is not None:
            return False
        has_ended = self.process.poll() is not None
        for value in _reported(self.job.folder)[len(self.values) :]:
            self.values.append(value)
            if report(self.job, len(self.values), value) and not has_ended:
                self.stopped = True
                self.end()
                return False
        if has_ended:
            self.seconds = self.watch.seconds()
        return not has_ended

    def end(self) -> None:
        """End the process and its children, where they still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.seconds = self.seconds if self.seconds is not None else self.watch.seconds()

    def attempt(self) -> Attempt:
        """Return the outcome."""
        value = self.values[-1] if self.values else None
        error = None if self.stopped else self._error()
        return Attempt(
            value=None if error or self.stopped else value,
            intermediates=tuple(self.values),
            error=error,
            stopped=self.stopped,
            seconds=self.seconds or 0.0,
        )

    def _error(self) -> str | None:
        code = self.process.returncode
        if code:
            lines = (self.job.folder / STDERR).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return f"{self.script} {how}: {lines[-1].strip() if lines else 'nothing on stderr'}"
        if not self.values:
            return f"{self.script} ended without a result: call nacdeploy.experiments.report_result(value) in it"
        return None


@dataclass(frozen=True)
class _Reported:
    """A line of a job's results."""

    value: float


def _reported(folder: Path) -> list[float]:
    """Return the values that a job has reported, in their order; a line counts once it is whole."""
    try:
        lines = doors.read_text(folder / RESULTS_FILE, "record_mib").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    where = f"{folder / RESULTS_FILE}, a reported value"
    whole = [doors.json_of(line, where) for line in lines if line.endswith("\n")]
    return [records.from_data(_Reported, row, where).value for row in whole]
