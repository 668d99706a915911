"""A training by several processes of this machine, each on a device of its own: launched, watched and read back.

Each process opens the task by its name and builds the network from the steps of its chain, as one that loads a
checkpoint does; values and recipe travel as plain data. They work together by `task/loop/together.py`. Whatever happens
to one of them, all end, and the network that was to be trained is as before.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from nacdeploy import data as datasets
from nacdeploy import models
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import records
from nacdeploy.base.errors import (
    DivergedError,
    LostWorkerError,
    MissingExtraError,
    NacdeployError,
    UsageError,
)
from nacdeploy.base.live import is_live
from nacdeploy.base.packages import import_problem
from nacdeploy.base.progress import nobody
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.state import Step
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.task import Task, training, trainings
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.distillation import Distillation
from nacdeploy.task.loop.together import Several
from nacdeploy.task.loop.unfinished import Unfinished

_JOB, _START, _TEACHER, _END_VALUES, _FIT, _EPOCHS = "job.json", "start", "teacher", "end", "fit.json", "epochs"
_KINDS = {"DivergedError": DivergedError, "UsageError": UsageError}
_POLL_S, _GRACE_S = 0.05, 1.0


@dataclass(frozen=True)
class Place:
    """The profile that a training's task is opened by, and the steps that lead from its model to the network."""

    profile: Profile
    steps: Sequence[Step] = ()


def fit(
    network: Network,
    task: Task,
    recipe: TrainTable,
    seed: int,
    score: Callable[[], float],
    report: training.Report = nobody,
    teacher: Network | None = None,
    how: Distillation | None = None,
    unfinished: Unfinished | None = None,
    place: Place | None = None,
) -> training.Fit:
    """Train a network in place by as many processes as its recipe says (see `trainings.fit`).

    Several processes begin anew after a kill; a task's own loop has one, and may start others itself.

    Raises:
        UsageError: fewer devices are here, or another process cannot open the task.
        MissingExtraError: accelerate is not installed.
        LostWorkerError: a process died.
    """
    if recipe.processes == 1 or task.trainer is not None or place is None:
        return trainings.fit(network, task, recipe, seed, score, report, teacher, how, unfinished)
    _check(recipe.processes, task)
    with tempfile.TemporaryDirectory(prefix="nacdeploy-training-") as name:
        folder = Path(name)
        records.write_json(folder / _JOB, _job(network, task, recipe, seed, how, place))
        (folder / _START).write_bytes(checkpoint.packed(content(network)))
        if teacher is not None:
            (folder / _TEACHER).write_bytes(checkpoint.packed(content(teacher)))
        done = _run(folder, recipe.processes, report)
        network.load_state_dict(load((folder / _END_VALUES).read_bytes()))
    return done


def _check(n: int, task: Task) -> None:
    kind, n_here = ("GPUs", torch.cuda.device_count()) if torch.cuda.is_available() else ("CPUs", _n_cpus())
    if n > n_here:
        raise UsageError(f"processes = {n}, and {n_here} {kind} are here; processes = {n_here} would work")
    if import_problem("accelerate") is not None:
        raise MissingExtraError("accelerate", "accelerate", "training by several processes")
    if is_live(task.spec.name):
        raise UsageError(
            f"'{task.spec.name}' lives in this Python program, and processes = {n} open a task of their own: write it "
            "as a function in a file, task='path/file.py:function', or train by one process"
        )
    if task.data.answered_by:
        raise UsageError("images without labels are trained on by one process; processes = 1 would work")


def _n_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _job(network: Network, task: Task, recipe: TrainTable, seed: int, how: Distillation | None, place: Place) -> Any:
    """Return what the processes are told, as plain data."""
    name, profile = task.spec.located, place.profile
    return {
        "profile": profile.model_dump(mode="json"),
        "model": name,
        "data": name if profile.data == task.spec.name else profile.data,
        "model_sha256": task.spec.source_sha256,
        "data_sha256": task.data.fingerprint,
        "grid": network.grid.name,
        "steps": [checkpoint.step_data(step) for step in place.steps],
        "recipe": recipe.model_dump(mode="json"),
        "is_finetune": isinstance(recipe, FinetuneTable),
        "seed": seed,
        "how": None if how is None else vars(how),
    }


def _run(folder: Path, n: int, report: training.Report) -> training.Fit:
    """Launch the processes and wait for them; end them all where one fails."""
    running, n_told, port = [], 0, _free_port()
    try:
        for rank in range(n):
            with (folder / f"log-{rank}").open("w") as log:
                command = [sys.executable, "-m", __name__, str(folder)]
                running.append(subprocess.Popen(command, env=_around(rank, n, port), stdout=log, stderr=log))
        while any(each.poll() is None for each in running) and not any(each.poll() for each in running):
            time.sleep(_POLL_S)
            n_told = _told(folder, n_told, report)
        if any(each.poll() for each in running):
            time.sleep(_GRACE_S)  # the others see its end, and say so too
            raise _failure(folder, [each.poll() or 0 for each in running])
        _told(folder, n_told, report)
    finally:
        _end(running)
    return training.Fit(**records.read_json(folder / _FIT))


def _around(rank: int, n: int, port: int) -> dict[str, str]:
    """Return the environment of one process: the variables of torch's launchers, and its share of the threads."""
    place = os.pathsep.join(filter(None, [str(Path(profiles.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": place,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // n)),
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _told(folder: Path, n_told: int, report: training.Report) -> int:
    """Report the epochs that ended since; return how many there are by now."""
    lines = (folder / _EPOCHS).read_text().splitlines(keepends=True) if (folder / _EPOCHS).is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    for line in whole[n_told:]:
        report(*json.loads(line))
    return len(whole)


def _failure(folder: Path, codes: Sequence[int]) -> NacdeployError:
    """Return the error of processes by their exit codes: how one was ended, else what one said of itself."""
    for rank in range(len(codes)):
        if min(codes) >= 0 and (folder / f"error-{rank}").is_file():
            kind, text = records.read_json(folder / f"error-{rank}")
            return _KINDS.get(kind, NacdeployError)(text)
    rank = min(range(len(codes)), key=lambda each: codes[each])  # a signal before what followed from it
    rank = rank if codes[rank] else next(each for each, code in enumerate(codes) if code)
    how = f"signal {-codes[rank]}" if codes[rank] < 0 else f"exit {codes[rank]}"
    last = (folder / f"log-{rank}").read_text(errors="replace").strip().splitlines()[-1:] if codes[rank] > 0 else []
    why = f": {last[0][:200]}" if last else ""
    return LostWorkerError(
        f"process {rank + 1} of {len(codes)} that train died ({how}{why}); nothing else is lost: run the command again"
    )


def _end(running: Sequence["subprocess.Popen[bytes]"]) -> None:
    for each in running:
        if each.poll() is None:
            each.kill()
        each.wait()


def _work(folder: Path) -> None:
    """Train, as one of the processes; the first one leaves the values and says which epoch ended."""
    job, together = records.read_json(folder / _JOB), Several()
    profile = profiles.from_mapping(job["profile"], where="the training's profile")
    models.accept_here(job["model"], job["model_sha256"])
    datasets.name_by_user(job["data"])
    task = tasks.make(job["model"], job["data"], profile)
    if task.data.fingerprint != job["data_sha256"]:
        raise UsageError(f"'{job['data']}' gives other data in another process; processes = 1 would work")
    steps = [checkpoint.step_from_data(step) for step in job["steps"]]
    network = checkpoint.rebuild(task.spec, job["grid"], profile, steps)
    checkpoint.fill(network, load((folder / _START).read_bytes()), "the training's start")
    recipe = (FinetuneTable if job["is_finetune"] else TrainTable).model_validate(job["recipe"])
    teacher, how = None, None if job["how"] is None else Distillation(**job["how"])
    if how is not None:
        teacher = checkpoint.rebuild(task.spec, job["grid"], profile, ())
        checkpoint.fill(teacher, load((folder / _TEACHER).read_bytes()), "the teacher")

    def score() -> float:
        return evaluation.own_score(network, task, task.data.validation)

    def report(*epoch: Any) -> None:
        if together.rank == 0:
            with (folder / _EPOCHS).open("a") as file:
                file.write(json.dumps(epoch) + "\n")

    done = trainings.fit(network, task, recipe, job["seed"], score, report, teacher, how, together=together)
    if together.rank == 0:
        (folder / _END_VALUES).write_bytes(checkpoint.packed(content(network)))
        records.write_json(folder / _FIT, vars(done))
    together.end()


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: nobody waits for what it would find."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _main(folder: Path) -> int:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        _work(folder)
    except NacdeployError as error:
        rank = os.environ.get("RANK", "0")
        records.write_json(folder / f"error-{rank}", [type(error).__name__, str(error)])
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
