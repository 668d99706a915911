"""The Ray that workers run on: this machine's own, or a cluster at an address. Ray's only home.

`pip install nacdeploy[ray]`.
"""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import MissingExtraError, NacdeployError, UsageError
from nacdeploy.base.outside import leaving
from nacdeploy.strategies.search.workers import Pool, WorkerOpener

_CONNECT_S, _PROBE_S = 4.0, 7.0


@dataclass(frozen=True)
class Cluster:
    """A running Ray, and the number of workers to start; each gets `n_devices` CPUs, or GPUs if there are any."""

    n_workers: int
    has_gpus: bool = False
    n_devices: int = 1

    @contextmanager
    def pool(self, opener: WorkerOpener) -> Iterator[Pool]:
        """Start the workers; they end with the block."""
        needs = {"num_gpus": self.n_devices, "num_cpus": 0} if self.has_gpus else {"num_cpus": self.n_devices}
        pool = Pool(_ray(), needs, self.n_workers, opener)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def ray_cluster(n_workers: int | None, address: str | None = None, n_devices: int = 1) -> Iterator[Cluster]:
    """Start a Ray on this machine that ends with the block, or join the one at `address` ("host:port", "auto").

    Args:
        n_workers: None takes as many as a cluster has CPUs for, or GPUs if it has any.
        n_devices: of each worker, for trainings by several processes.

    Raises:
        MissingExtraError: Ray is not installed.
        NacdeployError: nothing answers at the address, or the cluster has fewer CPUs or GPUs.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", "--ray" if address else "--workers above 1")
    if address is not None and address != "auto":
        _check_answers(address)
    ray = _ray()
    was_up = ray.is_initialized()
    try:
        if not was_up:
            with leaving.held():  # a half-started Ray leaves processes behind
                _start(ray, n_workers and n_workers * n_devices, address)
        with redirect_stdout(sys.stderr):  # where Ray tells of deaths, and a command prints its one JSON document
            yield _sized(ray.cluster_resources(), n_workers, address, n_devices)
    finally:
        if not was_up:
            with leaving.held():
                ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # it ends in a stack of C++
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def _start(ray: Any, n_cpus: int | None, address: str | None) -> None:
    where: dict[str, Any] = {"address": "local", "num_cpus": n_cpus, "include_dashboard": False}
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


def _sized(resources: Mapping[str, float], n_workers: int | None, address: str | None, n_devices: int) -> Cluster:
    n_gpus = int(resources.get("GPU", 0))
    n_here, kind = (n_gpus, "GPU") if n_gpus else (int(resources.get("CPU", 0)), "CPU")
    n_workers = max(n_here // n_devices, 1) if n_workers is None else n_workers
    if not 1 <= n_workers * n_devices <= n_here:
        where = f"the Ray cluster at {address}" if address else "this machine"
        needed = f"a {kind} each" if n_devices == 1 else f"{n_devices} {kind}s each (processes = {n_devices})"
        hint = "; CUDA_VISIBLE_DEVICES= in the environment leaves the GPUs out" if n_gpus and not address else ""
        fewer = "--workers" if n_devices == 1 else "--workers or processes"
        raise UsageError(f"{n_workers} workers need {needed} and {where} has {n_here}; give fewer {fewer}{hint}")
    return Cluster(n_workers, bool(n_gpus), n_devices)


def _check_answers(address: str) -> None:
    """Check that Ray answers at an address; Ray itself takes minutes to give up.

    If the cluster asks for a token, Ray is told to send it.

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
    """Return what is wrong with the Ray at an address, or nothing.

    A process of its own asks: Ray ends a process that asks in vain.
    """
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
