"""Workers: processes on this machine or on a Ray cluster (`cluster.py`) that run jobs, each one at a time.

A pool knows nothing of searches. A function, named by its import path, opens a worker once from plain data. The
function's result is then called with one job after the other, plain data in and out, so that no code travels. If a
worker dies, another one runs its job again, and a new worker begins as soon as there is room: after the loss of a
machine, the others go on.
"""

import importlib
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nacdeploy.base.errors import (
    DivergedError,
    LostWorkerError,
    NacdeployError,
    RefusedError,
    UnexpectedError,
    UsageError,
)

MAX_DEATHS = 3
RESULT = "result"
ERRORS: dict[str, type[NacdeployError]] = {
    kind.__name__: kind for kind in (UsageError, RefusedError, UnexpectedError, DivergedError, LostWorkerError)
}
_START_S = 300.0  # how long nothing may run while workers start; a cluster that grows by itself takes minutes

Run = Callable[[Any], Any]


@dataclass(frozen=True)
class WorkerOpener:
    """The opening of a worker: "package.module:function", and the plain data for the function."""

    function: str
    setup: Mapping[str, Any]


class Pool:
    """`n_workers` workers and the jobs that wait for a worker. Made by `Cluster.pool`.

    Args:
        ray: the module, joined to a cluster.
        needs: the resources that Ray sets aside for each worker.
        n_workers: the number of workers, as long as the cluster has room for them.
        opener: the opening of each worker.
    """

    def __init__(self, ray: Any, needs: Mapping[str, int], n_workers: int, opener: WorkerOpener) -> None:
        self._ray = ray
        kind = ray.remote(max_restarts=0, **needs)(_Worker)
        self._new = lambda: kind.remote(opener.function, dict(opener.setup), str(Path.cwd()), sys.path)
        self._n_failed_starts = 0
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, _Job]] = {}
        self._waiting: deque[_Job] = deque()
        for _ in range(n_workers):
            self._start()

    def submit(self, job: Any) -> Callable[[], Any]:
        """Begin a job (plain data) on a free worker, or when one is free; return a function that waits for its result.

        Raises:
            LostWorkerError: (from the returned function) its worker died each time.
            NacdeployError: raised by the job, of the same kind as there.
        """
        waiting = _Job(job)
        self._waiting.append(waiting)
        self._dispatch()
        return partial(self._result, waiting)

    def close(self) -> None:
        """End the workers at once."""
        for worker in [*self._starting.values(), *self._idle, *(worker for worker, _ in self._running.values())]:
            self._ray.kill(worker)
        self._starting, self._idle, self._running = {}, [], {}
        self._waiting.clear()

    def _result(self, job: "_Job") -> Any:
        """Run jobs until this one is done; return its worker's result.

        Raises:
            NacdeployError: no worker is left, and none can be started.
        """
        while job.outcome is None:
            for reference in self._next():
                if reference in self._starting:
                    self._started(reference)
                else:
                    self._collect(reference)
            self._dispatch()
        kind, value = job.outcome
        if kind == RESULT:
            return value
        raise ERRORS.get(kind, NacdeployError)(value)

    def _next(self) -> list[Any]:
        """Return the finished ones of the running jobs and starting workers."""
        references = [*self._running, *self._starting]
        done = self._ray.wait(references, timeout=None if self._running else _START_S)[0] if references else []
        if not done:
            raise NacdeployError(
                f"no worker is left and none could be started within {_START_S:g} s; see 'ray status': --resume RUN "
                "goes on with what is done once there are CPUs or GPUs"
            )
        return done

    def _start(self) -> None:
        """Begin a new worker, which may have to wait for room on the cluster."""
        worker = self._new()
        self._starting[worker.ready.remote()] = worker

    def _started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._n_failed_starts += 1
            if self._n_failed_starts < MAX_DEATHS:
                self._start()
            elif not (self._running or self._idle or self._starting):
                raise NacdeployError(f"workers die before they begin, at last: {_short(error)}") from error
            return
        self._n_failed_starts = 0
        self._idle.append(worker)

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            worker, job = self._idle.pop(), self._waiting.popleft()
            self._running[worker.run.remote(job.data)] = (worker, job)

    def _collect(self, reference: Any) -> None:
        worker, job = self._running.pop(reference)
        try:
            job.outcome = self._ray.get(reference)
            self._idle.append(worker)
        except self._ray.exceptions.RayTaskError:  # a bug in the job, not a death
            raise
        except self._ray.exceptions.RayError as error:
            self._start()
            job.died(_short(error))
            if job.outcome is None:
                self._waiting.appendleft(job)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@dataclass
class _Job:
    """A job, its outcome, and the number of its workers that died.

    The outcome is a pair: `RESULT` and plain data, or the name of an error of ours and its text.
    """

    data: Any
    outcome: tuple[str, Any] | None = None
    n_deaths: int = 0

    def died(self, reason: str) -> None:
        self.n_deaths += 1
        if self.n_deaths >= MAX_DEATHS:
            self.outcome = (LostWorkerError.__name__, f"its worker died {MAX_DEATHS} times, at last: {reason}")


class _Worker:
    """A worker's process, opened at its first job, so that a failure there is reported like any other error."""

    def __init__(self, function: str, setup: Mapping[str, Any], folder: str, path: list[str]) -> None:
        self._function, self._setup, self._folder, self._path = function, setup, folder, path
        self._run: Run | None = None

    def ready(self) -> None:
        """Answer once the process is there."""

    def run(self, job: Any) -> tuple[str, Any]:
        try:
            if self._run is None:
                self._run = self._opened()
            return (RESULT, self._run(job))
        except NacdeployError as error:
            return (type(error).__name__, str(error))

    def _opened(self) -> Run:
        if Path(self._folder).is_dir():  # relative paths of data and models mean the same here as there
            os.chdir(self._folder)
        sys.path.extend(entry for entry in self._path if entry not in sys.path)
        module, _, name = self._function.partition(":")
        run: Run = getattr(importlib.import_module(module), name)(self._setup)
        return run
