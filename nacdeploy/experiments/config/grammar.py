"""EXPERIMENT.json: the grammar of Auptimizer's Compressor, validated as a whole.

Every problem of a file is found and told at once. What the old system knew and this one does not honour is no problem:
it is listed by name as ignored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.experiments.config import space, vocabulary
from nacdeploy.experiments.config.config_list import entries_problems, run_problems
from nacdeploy.experiments.config.vocabulary import Words
from nacdeploy.profile.tables.table import Table

# Keys of the old system without a meaning here, by table ("" is the file itself).
IGNORED: dict[str, tuple[str, ...]] = {
    "": (
        *("runtime_args", "engine", "grid_size", "skip_last", "scratch", "n_iterations", "min_budget", "max_budget"),
        *("min_points_in_model", "top_n_percent", "num_samples", "random_fraction", "bandwidth_factor", "chooser"),
        *("min_bandwidth", "parameter_config", "dashboard", "aup_folder", "user", "jobs", "seed_bank", "gpu_mapping"),
    ),
    "resource_args": (
        *("multi_res_labels", "prescript", "postscript", "overwrite", "reconn_wait_time", "max_retries", "shutdown"),
        *("async_run", "async_reconnect", "async_timeout", "n_gpu", "n_cpu", "envs", "auth", "connectivity"),
    ),
    "resource_args.early_stop": (),
    "job_failure": (),
    "compression": ("workingdir",),
}
POLICIES = ("median", "bandit", "truncation")


class JobFailure(Table):
    """The retries of a failed job, and whether the experiment continues after a job that keeps failing."""

    job_retries: int = Field(0, ge=0)
    ignore_fail: bool = False


class EarlyStop(Table):
    """A job ends early where its intermediate result falls behind those of others at the same step; `warmup` steps are
    free, and the policy looks at every `aup_policy_steps`-th.

    median: behind the median of the others. truncation: in their worst `truncation_percentage` (a fraction). bandit:
    behind the best by more than `bandit_factor` of it.
    """

    aup_policy: Literal["bandit", "median", "truncation", "curve_fitting"]
    aup_policy_steps: int = Field(1, ge=1)
    warmup: int = Field(0, ge=0)
    bandit_factor: float = Field(0.1, ge=0)
    truncation_percentage: float = Field(0.3, gt=0, lt=1)


class ResourceArgs(Table):
    """The arguments of a job's resource; every job here keeps its best model and its intermediate results."""

    early_stop: EarlyStop | None = None
    save_model: bool = True
    track_intermediate_results: bool = True


class Compression(Table):
    """The compression of an experiment: `config_list` by layer, `settings` for the whole run."""

    framework: Literal["torch"] = "torch"
    type: str
    compressor: str
    config_list: tuple[dict[str, Any], ...]
    settings: dict[str, Any] = Field({})


class Experiment(Table):
    """A compression experiment; without a `script`, nacdeploy itself trains and evaluates."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = ""
    script: str | None = None
    workingdir: str | None = None
    resource: Literal["cpu", "gpu", "passive", "node", "aws"] = "cpu"
    resource_args: ResourceArgs = ResourceArgs()
    compression: Compression
    proposer: str = "random"
    n_samples: int = Field(10, ge=1)
    n_parallel: int = Field(1, ge=1)
    target: Literal["max", "min"] = "max"
    random_seed: int | None = Field(None, ge=0)
    job_failure: JobFailure = JobFailure()
    metric: Literal["accuracy", "bitops_ratio", "macs_ratio", "bytes_ratio", "score"] = "accuracy"
    max_iter: int = Field(81, ge=1)
    eta: int = Field(3, ge=2)

    @field_validator("proposer")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return vocabulary.proposer(name)
        except UsageError as error:
            raise ValueError(str(error)) from error

    @property
    def words(self) -> Words:
        """The words of its compressor: its name and its keys."""
        return vocabulary.compressor(self.compression.compressor)

    @property
    def expanded(self) -> list[space.Entry]:
        """The config_list with an entry of its own for each layer that is named."""
        return space.expand(self.compression.config_list)

    @property
    def spaces(self) -> tuple[space.Space, ...]:
        """The spaces to search over: of layers by `<index>.<key>`, of the whole run by `<key>`."""
        return (*space.spaces(self.expanded), *space.spaces(self.compression.settings))

    def filled(self, proposal: Mapping[str, Any]) -> Compression:
        """Return the compression of one job; the experiment keeps its space."""
        settings = space.filled(self.compression.settings, proposal)
        entries = tuple(space.job_config_list(self.expanded, proposal))
        return self.compression.model_copy(update={"config_list": entries, "settings": settings})


@dataclass(frozen=True)
class Read:
    """An experiment, and what of its file means nothing here."""

    experiment: Experiment
    ignored: tuple[str, ...]


def read(data: Any, where: str = "experiment", name: str = "experiment") -> Read:
    """Check plain data.

    Raises:
        UsageError: with every problem of the data in one line.
    """
    if not isinstance(data, dict):
        raise UsageError(f'{where} must hold one JSON object, such as {{"name": ..., "compression": {{...}}}}')
    ignored: list[str] = []
    given = _without_ignored(data, "", ignored)
    given.setdefault("name", name)
    compression, found = _compression(given.get("compression"), ignored)
    experiment = None
    try:
        experiment = Experiment.model_validate({**given, "compression": compression})
    except ValidationError as error:
        found = [*filter(None, map(_explain, error.errors())), *found]
    if found or experiment is None:
        raise UsageError(f"{where}: " + "; ".join(dict.fromkeys(found)))
    return Read(experiment, (*ignored, *_not_honoured(experiment)))


def _without_ignored(data: dict[str, Any], at: str, ignored: list[str]) -> dict[str, Any]:
    """Return a table without the keys that mean nothing here, which are noted, nested tables included."""
    kept = {}
    for key, value in data.items():
        path = f"{at}.{key}".lstrip(".")
        if key in IGNORED[at]:
            ignored.append(path)
        else:
            kept[key] = _without_ignored(value, path, ignored) if path in IGNORED and isinstance(value, dict) else value
    return kept


def _not_honoured(experiment: Experiment) -> Iterator[str]:
    """Values of the old system, of keys that are known, that nothing here does."""
    if experiment.resource in ("passive", "node", "aws"):
        yield f"resource '{experiment.resource}' (jobs run on this machine)"
    stop = experiment.resource_args.early_stop
    if stop and stop.aup_policy == "curve_fitting":
        yield f"resource_args.early_stop.aup_policy 'curve_fitting' (known: {', '.join(POLICIES)})"
    is_watched = experiment.metric == "accuracy" and experiment.n_parallel == 1
    if experiment.script is None and not is_watched:
        ends = ["resource_args.early_stop"] if stop else []
        ends += [f"proposer '{experiment.proposer}'"] if experiment.proposer in vocabulary.ENDING else []
        yield from (f"the early end by {each} (of metric 'accuracy' and n_parallel 1 alone)" for each in ends)
    if experiment.workingdir is not None and experiment.script is None:
        yield "workingdir (there is no script)"


def _compression(given: Any, ignored: list[str]) -> tuple[Any, list[str]]:
    """Return the compression table as `Compression` takes it, and the problems of its own: of the compressor, of the
    entries and of the keys for the whole run."""
    if not isinstance(given, dict):
        return given, ["compression is missing"] if given is None else [f"compression: {given!r} is no table"]
    table = {key: given[key] for key in ("framework",) if key in given}
    if not isinstance(given.get("compressor"), str):
        known = ", ".join(words.name for words in vocabulary.COMPRESSORS)
        return None, [f"compression.compressor is missing; known: {known}"]
    try:
        words = vocabulary.compressor(given["compressor"])
    except UsageError as error:
        return None, [f"compression.compressor: {error}"]
    found = _type_problems(given, words)
    settings, entries = _split(given, words, ignored)
    found += entries_problems(entries, words)
    found += [p for key, value in settings.items() for p in run_problems("compression", key, value, words)]
    plain = tuple(e for e in entries if isinstance(e, dict)) if isinstance(entries, list) else ()
    settings = {**settings, **{k: v for e in plain for k, v in e.items() if k in words.per_run}}
    plain = tuple({k: v for k, v in e.items() if k not in words.per_run and k not in words.ignored} for e in plain)
    return {**table, "type": words.type, "compressor": words.name, "config_list": plain, "settings": settings}, found


def _type_problems(given: Mapping[str, Any], words: Words) -> list[str]:
    found = []
    if given.get("framework", "torch") != "torch":
        found.append(f"compression.framework: {given['framework']!r} is not supported; known: torch")
    if given.get("type", words.type) != words.type:
        found.append(f"compression.type: compressor '{words.name}' is of type {words.type}, not {given['type']}")
    if "config_list" not in given:
        found.append("compression.config_list is missing")
    return found


def _split(given: Mapping[str, Any], words: Words, ignored: list[str]) -> tuple[dict[str, Any], Any]:
    """Return the keys for the whole run, and the entries."""
    rest = {k: v for k, v in given.items() if k not in ("framework", "type", "compressor", "config_list")}
    ignored += [f"compression.{key}" for key in rest if key in words.ignored]
    entries = given.get("config_list", [])
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            ignored += [f"compression.config_list.{index}.{key}" for key in entry if key in words.ignored]
    return {key: value for key, value in rest.items() if key not in words.ignored}, entries


def _explain(problem: Any) -> str | None:
    """Return a problem of the tables; those within `compression` are told by `_compression`."""
    *parents, key = problem["loc"]
    where = ".".join(map(str, problem["loc"]))
    if problem["loc"][0] == "compression":
        return None
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}'" + nearest(str(key), _keys_of(parents))
    if problem["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')} (given: {problem['input']!r})"


def _keys_of(parents: list[Any]) -> list[str]:
    tables: dict[tuple[Any, ...], Callable[..., Table]] = {
        (): Experiment,
        ("resource_args",): ResourceArgs,
        ("resource_args", "early_stop"): EarlyStop,
        ("job_failure",): JobFailure,
    }
    return list(tables[tuple(parents)].model_fields)  # type: ignore[attr-defined]
