"""Compression experiments: one compression, or a search over its configuration, by nacdeploy itself or by a script."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import models
from nacdeploy import task as tasks
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.outside import own
from nacdeploy.base.progress import Progress, default
from nacdeploy.experiments.config import grammar
from nacdeploy.experiments.config.grammar import Experiment
from nacdeploy.experiments.config.vocabulary import QUANTIZATION
from nacdeploy.experiments.driver import proposers, scripts
from nacdeploy.experiments.driver.jobs import JobRow, Jobs, Worker
from nacdeploy.experiments.driver.reporting import MODEL
from nacdeploy.experiments.own_jobs import OwnWorker, PoolWorker, check_layers, opened, setup_of
from nacdeploy.experiments.script import exporting
from nacdeploy.profile.settings import Settings
from nacdeploy.results.outcome import Command, finish
from nacdeploy.results.result import Result
from nacdeploy.sessions.options import Options, filled
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import Request, recorded, wanted
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.search.cluster import ray_cluster
from nacdeploy.strategies.search.workers import WorkerOpener
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.strategies.steps import checkpoint as checkpoints

RUN_FILE, EXPERIMENT_FILE, BEST = "run.json", "experiment.json", "best"


@dataclass(frozen=True)
class Begun:
    """run.json: the start of an experiment, so that it can be resumed; `model` is set if it was named."""

    experiment: dict[str, Any]
    file: str
    automatic: bool
    profile: dict[str, Any]
    checkpoint: str | None
    model: str | None = None
    new_head: bool = False


@dataclass(frozen=True)
class Compressed:
    """The results of an experiment: experiment.json. Values are those reported on validation.

    `result` belongs to the best job if nacdeploy itself ran it, with its scores on the test split.
    """

    name: str
    folder: str
    automatic: bool
    compressor: str
    proposer: str
    target: str
    jobs: tuple[JobRow, ...]
    best_job: int
    best_value: float
    best_folder: str
    ignored: tuple[str, ...]
    seconds: float
    result: Result | None = None
    schema: int = field(default=records.SCHEMA_VERSION)


def compress(
    *,
    experiment: Path | str | None = None,
    automatic: bool = False,
    script: Path | str | None = None,
    resume: Path | str | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Compressed:
    """Run the experiment of a file, or resume the folder of one; write every job's row and the best job's model.

    An experiment's own `script` runs only if `script` names it too, or this user has named it before in its present
    content.

        >>> import json, nacdeploy
        >>> from pathlib import Path
        >>> layers = [{"op_types": ["Conv2d"], "sparsity": 0.25}]
        >>> compression = {"type": "pruning", "compressor": "l1", "config_list": layers}
        >>> n_bytes = Path("experiment.json").write_text(json.dumps({"compression": compression}))
        >>> compressed = nacdeploy.compress(experiment="experiment.json", profile="tiny.toml", out="experiment")
        >>> [(job.number, job.status) for job in compressed.jobs]
        [(0, 'done')]

    Raises:
        UsageError: the file has errors (the message names all), has ranges without `automatic`, or none with
            `automatic`; or it names a script that this user has not named, or another than `script`.
        NacdeployError: a job fails and `job_failure` does not allow it, or no job has a value.
    """
    progress, watch = progress or default(), Stopwatch()
    models.name_by_user(shared.get("model"), shared.get("task"))
    with _begun(experiment, automatic, resume, out, shared) as (place, asked):
        read = grammar.read(asked.experiment, asked.file)
        _check_script(read.experiment, asked.file, script)
        return _compressed(place, asked, read, shared, progress, watch)


def _compressed(
    place: Path, asked: Begun, read: grammar.Read, options: Options, progress: Progress, watch: Stopwatch
) -> Compressed:
    """Run the jobs of an experiment in its folder."""
    for name in read.ignored:
        progress.say(f"ignored: {name}")
    request = recorded(asked.profile, place / RUN_FILE, options, asked.checkpoint, asked.new_head)
    with ExitStack() as stack:
        session, worker = _worker(read.experiment, asked, request, progress, stack)
        records.write_json(place / RUN_FILE, asked)
        own.note(place / RUN_FILE)
        jobs = _run(read.experiment, asked, place, worker, request.settings.profile.seed, progress)
    best = jobs.best()
    if best is None or best.value is None:
        raise NacdeployError(f"no job of '{read.experiment.name}' came to a value; see {place / 'jobs'}")
    result, model = None, jobs.folder(best.number) / MODEL
    command = Command("compress", place, request.options, progress, watch)
    if session is not None:
        state, record = checkpoints.load(model)
        result = finish(command, replace(session, settings=Settings.of(record.settings(), str(model))), state)
    else:
        _keep_best(model, place / BEST)
        result = _of_script(command, asked, request, place / BEST)
    done = _outcome(read, asked, place, jobs, best, watch.seconds(), result)
    records.write_json(place / EXPERIMENT_FILE, done)
    return done


@contextmanager
def _begun(
    file: Path | str | None, automatic: bool, resume: Path | str | None, out: Path | str | None, options: Options
) -> Iterator[tuple[Path, Begun]]:
    """Yield the folder of a new experiment, reserved within the block, or of an old one, and what it was started
    with."""
    if resume is not None:
        place = Path(resume)
        if not (place / RUN_FILE).is_file():
            raise UsageError(f"{place} is no experiment (it has no {RUN_FILE}); --resume takes the folder of one")
        yield place, records.read(Begun, place / RUN_FILE)
        return
    if file is None:
        raise UsageError("give the file of an experiment, such as experiment.json, or --resume RUN")
    data = records.read_json(Path(file))
    read = grammar.read(data, str(file), Path(file).stem)
    experiment = read.experiment
    _check_mode(experiment, automatic)
    settings = wanted(options).settings
    if options.get("seed") is None and experiment.random_seed is not None:
        settings = settings.over((str(file), {"seed": experiment.random_seed}))
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in experiment.name)
    data = {"name": experiment.name, **data}
    options = filled(options)
    profile = settings.profile.model_dump(mode="json")
    asked = Begun(data, str(file), automatic, profile, options["checkpoint"], options["model"], options["new_head"])
    with Runs(Path(options["runs"])).place(out, f"compress-{name}") as place:
        yield place, asked


def name_script(script: Path) -> None:
    """Note that this user named a script, which may then run; a missing one is refused when it is used."""
    if script.is_file():
        scripts.named(script)


def _check_script(experiment: Experiment, file: str, given: Path | str | None) -> None:
    """Let an experiment's script run if it is the one that this user gives; refuse one that he never named."""
    if experiment.script is None:
        if given is not None:
            raise UsageError(f"{file} names no script: leave --script {given} away")
        return
    script, _ = scripts.located(experiment, Path(file).absolute())
    if given is not None:
        named = Path(given).expanduser()
        if not (named.is_file() and named.samefile(script)):
            raise UsageError(f"{file} runs the script {script}, not {given}")
        scripts.named(script)
    scripts.check(script)


def _check_mode(experiment: Experiment, automatic: bool) -> None:
    names = [space.name for space in experiment.spaces]
    if automatic and not names:
        raise UsageError(
            "--automatic searches over ranges, and the experiment has none: give one such as "
            '{"sparsity": {"range": [0.1, 0.9], "type": "float"}}'
        )
    if names and not automatic:
        raise UsageError(f"{names[0]} is a range: --automatic searches over it; without, give one value")
    proposers.check(experiment.proposer, experiment.spaces)


def _worker(
    experiment: Experiment, asked: Begun, request: Request, progress: Progress, stack: ExitStack
) -> tuple[Session | None, Worker]:
    """Return the worker of the jobs: a script's processes, or this process with a session of its own."""
    profile = request.settings.profile
    if experiment.script is not None:
        script, directory = scripts.located(experiment, Path(asked.file).absolute())
        if asked.model is not None:
            tasks.make(profile.model, profile.data, profile)  # what cannot be built is said before the jobs run
        return None, scripts.ScriptWorker(experiment, script, directory, profile.seed)
    if request.options["checkpoint"] is None:
        task = tasks.make(profile.model, profile.data, profile)
        check_layers(experiment, task, profile, plain_network(task, profile))  # before the baseline is trained
    letters = "Q" if experiment.words.type == QUANTIZATION else "F"
    session = open_session(replace(request, letters=letters), progress)
    check_layers(experiment, session.task, session.profile, session.baseline.network)
    if experiment.n_parallel > 1:
        cluster = stack.enter_context(ray_cluster(experiment.n_parallel))
        opener = WorkerOpener(f"{opened.__module__}:{opened.__name__}", setup_of(asked.experiment, session))
        return session, PoolWorker(stack.enter_context(cluster.pool(opener)).submit)
    return session, OwnWorker(experiment, session, progress)


def _run(experiment: Experiment, asked: Begun, place: Path, worker: Worker, seed: int, progress: Progress) -> Jobs:
    fingerprint = proposers.fingerprint([experiment.model_dump(mode="json", exclude={"n_samples"}), seed])
    with proposers.opened(
        place / proposers.FILE,
        experiment.proposer if asked.automatic else "random",
        experiment.spaces,
        experiment.target,
        seed,
        fingerprint=fingerprint,
        max_iter=experiment.max_iter,
        eta=experiment.eta,
    ) as study:
        jobs = Jobs(experiment, study, place, worker, progress.say)
        jobs.run(experiment.n_samples if asked.automatic else 1)
    return jobs


def _keep_best(source: Path, place: Path) -> None:
    """Keep the best job's model under a name of its own; a script need not have exported one."""
    if source.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)


def _of_script(command: Command, asked: Begun, request: Request, folder: Path) -> Result | None:
    """Return a script's export as a result like any other, if its model was named with --model, else None.

    The checkpoint of that model is compared with its baseline on our data. None also says that nothing was exported.
    """
    exported = folder / exporting.FOLDER
    if asked.model is None or not exported.is_dir():
        return None
    session, profile = open_session(replace(request, letters="P"), command.progress), request.settings.profile
    network, steps = exporting.rebuilt(session.task.build(profile.seed), exported, profile)
    metrics = measure(network, session.task)
    return finish(command, session, CompressionState(network, metrics, session.baseline.metrics, steps))


def _outcome(
    read: grammar.Read,
    asked: Begun,
    place: Path,
    jobs: Jobs,
    best: JobRow,
    seconds: float,
    result: Result | None,
) -> Compressed:
    return Compressed(
        name=read.experiment.name,
        folder=str(place),
        automatic=asked.automatic,
        compressor=read.experiment.compression.compressor,
        proposer=read.experiment.proposer if asked.automatic else "",
        target=read.experiment.target,
        jobs=tuple(row for _, row in sorted(jobs.rows.items())),
        best_job=best.number,
        best_value=float(best.value or 0.0),
        best_folder=result.checkpoint if result else str(place / BEST) if (place / BEST).is_dir() else "",
        ignored=read.ignored,
        seconds=seconds,
        result=result,
    )
