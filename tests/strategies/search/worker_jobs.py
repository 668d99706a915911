"""Jobs for the tests of workers, found by their import path."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nacdeploy.base.errors import DivergedError, RefusedError, UsageError

ERRORS = {"refused": RefusedError, "diverged": DivergedError, "usage": UsageError}


def opened(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A worker that answers, fails or dies as its job says; `setup["folder"]` holds marks."""
    folder = Path(setup["folder"])
    (folder / f"opened-{os.getpid()}").touch()

    def run(job: dict[str, Any]) -> Any:
        if job.get("dies"):
            deaths = folder / f"deaths-{job['name']}"
            n_deaths = len(deaths.read_text()) if deaths.is_file() else 0
            if n_deaths < job["dies"]:
                deaths.write_text("x" * (n_deaths + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        if job.get("meets"):
            (folder / f"here-{job['name']}").touch()
            until(lambda: (folder / f"here-{job['meets']}").is_file(), f"{job['meets']} is there too")
        if job.get("raises"):
            raise ERRORS[job["raises"]](f"{job['name']} fails")
        return {"name": job["name"], "pid": os.getpid(), "folder": str(Path.cwd())}

    return run


def n_devices(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A worker that answers with the CPUs that Ray set aside for it."""
    import ray

    return lambda job: ray.get_runtime_context().get_assigned_resources()["CPU"]


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something that takes seconds at most; a minute says that it never comes."""
    end = time.monotonic() + 60.0
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not in a minute: {what}")
        time.sleep(0.01)


def refuses(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    raise UsageError(f"no such data: {setup['data']}")
