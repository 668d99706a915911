"""Workers: processes on this machine or on a Ray cluster that run jobs, each one at a time. Ray's only home.

A pool knows nothing of searches. A worker is opened once, by a function named by its import path, from plain data; what
that function returns is then called with one job after the other, plain data in and out, so that no code travels. The
job of a worker that dies is run again on a new one. `pip install nacdeploy[ray]`.
"""

import importlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacdeploy.errors import (
    DivergedError,
    LostWorkerError,
    MissingExtraError,
    NacdeployError,
    RefusedError,
    UsageError,
)

MAX_DEATHS = 3
RESULT = "result"
ERRORS: dict[str, type[NacdeployError]] = {
    kind.__name__: kind for kind in (UsageError, RefusedError, DivergedError, LostWorkerError)
}
_CONNECT_S, _PROBE_S = 4.0, 7.0

Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Opener:
    """How a worker is opened: "package.module:function", and the plain data that the function is called with."""

    function: str
    setup: Mapping[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A Ray that is up, and how many workers it is to have; each has one CPU, or one GPU where there are any."""

    n_workers: int
    has_gpus: bool = False

    @contextmanager
    def pool(self, opener: Opener) -> Iterator["Pool"]:
        """The workers; they end with the block."""
        pool = Pool(self, opener)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def ray_cluster(n_workers: int | None, address: str | None = None) -> Iterator[Cluster]:
    """A Ray of this machine's own that ends with the block, or the one at `address` ("host:port", "auto").

    Args:
        n_workers: None takes as many as a cluster has CPUs, or GPUs where it has any.

    Raises:
        MissingExtraError: Ray is not installed.
        NacdeployError: nothing answers at the address, or it has not so many CPUs or GPUs.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", "--ray" if address else "--workers above 1")
    if address is not None and address != "auto":
        _check_answers(address)
    ray = _ray()
    was_up = ray.is_initialized()
    try:
        if not was_up:
            _start(ray, n_workers, address)
        with redirect_stdout(sys.stderr):  # where Ray tells of deaths, and a command prints its one JSON document
            yield _sized(ray.cluster_resources(), n_workers, address)
    finally:
        if not was_up:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def _start(ray: Any, n_workers: int | None, address: str | None) -> None:
    where: dict[str, Any] = {"address": "local", "num_cpus": n_workers, "include_dashboard": False}
    if address:
        same = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        where = {"address": address, "runtime_env": {"env_vars": same}}  # workers import what the driver imports
    try:
        logging.getLogger("ray").setLevel(logging.ERROR)
        ray.init(**where, log_to_driver=False, configure_logging=False)
    except Exception as error:
        what = f"cannot join the Ray cluster at {address}" if address else "cannot start a local Ray"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NacdeployError(f"{what}: {reason}; without it, --workers 1 runs in this process") from error


def _sized(resources: Mapping[str, float], n_workers: int | None, address: str | None) -> Cluster:
    n_gpus = int(resources.get("GPU", 0))
    n_here, kind = (n_gpus, "GPU") if n_gpus else (int(resources.get("CPU", 0)), "CPU")
    n_workers = n_workers or n_here
    if not 1 <= n_workers <= n_here:
        where = f"the Ray cluster at {address}" if address else "this machine"
        hint = "; CUDA_VISIBLE_DEVICES= in the environment leaves the GPUs out" if n_gpus and not address else ""
        raise UsageError(f"{n_workers} workers need a {kind} each and {where} has {n_here}; give fewer --workers{hint}")
    return Cluster(n_workers, bool(n_gpus))


def _check_answers(address: str) -> None:
    """Ray itself takes minutes to give up on an address; where the cluster asks for a token, Ray is told to send it.

    Raises:
        NacdeployError: no Ray answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--ray '{address}' is no address; give host:port such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_ray(address, getattr(error, "strerror", None) or str(error)) from error
    if address.startswith("ray://"):
        return
    said = _health(address)
    if "AuthToken" in said and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        said = _health(address)
    if said:
        raise _no_ray(address, said)


def _health(address: str) -> str:
    """What is wrong with the Ray at an address, nothing where it is well. A process of its own asks: Ray ends the one
    that asks in vain."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        return f"no Ray answers within {_PROBE_S:g} s"
    if done.returncode == 0:
        return ""
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it is not healthy")[:300]


def _no_ray(address: str, reason: str) -> NacdeployError:
    return NacdeployError(
        f"no Ray cluster at {address}: {reason}; 'ray start --head' starts one, --workers N needs none"
    )


class Pool:
    """The workers of a cluster and the jobs that wait for one. Made by `Cluster.pool`."""

    def __init__(self, cluster: Cluster, opener: Opener) -> None:
        self._ray = _ray()
        needs = {"num_gpus": 1, "num_cpus": 0} if cluster.has_gpus else {"num_cpus": 1}
        kind = self._ray.remote(max_restarts=0, **needs)(_Worker)
        self._new = lambda: kind.remote(opener.function, dict(opener.setup), str(Path.cwd()), sys.path)
        self._idle = [self._new() for _ in range(cluster.n_workers)]
        self._running: dict[Any, tuple[Any, _Job]] = {}
        self._waiting: deque[_Job] = deque()

    def submit(self, job: Any) -> "PendingJob":
        """Begin a job (plain data) on a free worker, or when one is free."""
        waiting = _Job(job)
        self._waiting.append(waiting)
        self._dispatch()
        return PendingJob(self, waiting)

    def close(self) -> None:
        """End the workers, whatever they do."""
        for worker in [*self._idle, *(worker for worker, _ in self._running.values())]:
            self._ray.kill(worker)
        self._idle, self._running = [], {}
        self._waiting.clear()

    def wait_for(self, job: "_Job") -> tuple[str, Any]:
        """Run jobs until this one is done; its outcome."""
        while job.outcome is None:
            done, _ = self._ray.wait(list(self._running))
            for reference in done:
                self._collect(reference)
            self._dispatch()
        return job.outcome

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            worker, job = self._idle.pop(), self._waiting.popleft()
            self._running[worker.run.remote(job.data)] = (worker, job)

    def _collect(self, reference: Any) -> None:
        worker, job = self._running.pop(reference)
        try:
            job.outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:  # a bug in the job, not a death
            raise
        except self._ray.exceptions.RayError as error:
            worker = self._new()
            job.died(str(error))
            if job.outcome is None:
                self._waiting.appendleft(job)
        self._idle.append(worker)


@dataclass
class _Job:
    """A job, what became of it, and how often its worker died. The outcome is a pair: `RESULT` and plain data, or the
    name of an error of ours and its text."""

    data: Any
    outcome: tuple[str, Any] | None = None
    n_deaths: int = 0

    def died(self, reason: str) -> None:
        self.n_deaths += 1
        if self.n_deaths >= MAX_DEATHS:
            short = " ".join(reason.split())[:300]
            self.outcome = (LostWorkerError.__name__, f"its worker died {MAX_DEATHS} times, at last: {short}")


@dataclass(frozen=True)
class PendingJob:
    """A job under way."""

    pool: Pool
    job: _Job

    def result(self) -> Any:
        """What the worker returned.

        Raises:
            LostWorkerError: its worker died each time.
            NacdeployError: raised by the job, of the same kind as there.
        """
        kind, value = self.pool.wait_for(self.job)
        if kind == RESULT:
            return value
        raise ERRORS.get(kind, NacdeployError)(value)


class _Worker:
    """A worker's process: opened at its first job, so that what fails there is told like any other error."""

    def __init__(self, function: str, setup: Mapping[str, Any], folder: str, path: list[str]) -> None:
        self._function, self._setup, self._folder, self._path = function, setup, folder, path
        self._run: Run | None = None

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
