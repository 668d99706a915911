"""The messages between a training script and the experiment that runs it."""

import functools
import inspect
import json
import math
import os
import random
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.experiments.config import grammar
from nacdeploy.experiments.config.grammar import Compression, Experiment
from nacdeploy.experiments.config.vocabulary import compressor

# A job's folder is named in the environment; in it lie its configuration, what it reports, and its model.
VARIABLE, CONFIG_FILE, RESULTS_FILE, MODEL = "NACDEPLOY_JOB", "config.json", "results.jsonl", "model"


def job_folder() -> Path | None:
    """Return the folder of the job that this process is, None where it is none."""
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def report_result(value: Any) -> None:
    """Report a result on validation data; of several, the last is the job's value and the others are intermediate.

    Raises:
        UsageError: it is no finite number.
    """
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise UsageError(f"report_result takes one finite number, not {value!r}")
    print(f"result: {float(value):.6g}", flush=True)
    folder = job_folder()
    if folder is not None:
        with (folder / RESULTS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"value": float(value)}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def load_config(path: Path | str | None = None) -> dict[str, Any]:
    """Return the configuration of this job: `compressor`, `config_list`, `save_model`, `folder_name`, `random_seed`,
    ...

    It is read from `path`, else from the job that runs this process, else from the first command-line argument; the
    file of a one-time experiment does as well.
    The generators of Python, and of torch and numpy where they are imported, start from `random_seed`.

    Raises:
        UsageError: there is none, or it has errors.
    """
    folder = job_folder()
    if path is None and folder is not None:
        path = folder / CONFIG_FILE
    if path is None:
        path = next(iter(sys.argv[1:]), None)
    if path is None:
        raise UsageError(
            f"no configuration: run the script by 'nacdeploy compress', or as {sys.argv[0]} EXPERIMENT.json"
        )
    config = _flat(records.read_json(Path(path)), str(path))
    _seed(int(config.get("random_seed") or 0))
    return config


def _flat(data: Any, where: str) -> dict[str, Any]:
    """Return a configuration as jobs are handed it, from itself or from the file of an experiment."""
    if not isinstance(data, dict):
        raise UsageError(f"{where} holds no configuration of a compression")
    if "compression" not in data:
        return dict(data)
    experiment = grammar.read(data, where).experiment
    return handed(experiment, experiment.compression, ".", experiment.random_seed or 0)


def handed(experiment: Experiment, compression: Compression, folder: str, seed: int) -> dict[str, Any]:
    """Return a script's configuration by the old system's names."""
    return {
        "compression_framework": compression.framework,
        "compression_type": compression.type,
        "compressor": compression.compressor,
        "config_list": list(compression.config_list),
        **compression.settings,
        "save_model": experiment.resource_args.save_model,
        "folder_name": folder,
        "random_seed": seed,
    }


def compression_of(config: Mapping[str, Any]) -> Compression:
    """Return the compression that a configuration speaks of: of a job, of an experiment, or the table alone.

    Raises:
        UsageError: with every problem in one line, or a value is still a range.
    """
    config = dict(config)
    table = config.get("compression") if "compression" in config else config
    if not isinstance(table, dict):
        raise UsageError("config holds no 'compression' table")
    words = compressor(table["compressor"]) if isinstance(table.get("compressor"), str) else None
    known = ("type", "framework", "compressor", "config_list", *(words.per_run if words else ()))
    named = {key: table[key] for key in known if key in table}
    named |= {k: table[f"compression_{k}"] for k in ("type", "framework") if f"compression_{k}" in table}
    experiment = grammar.read({"compression": named}, "config").experiment
    if experiment.spaces:
        raise UsageError(
            f"{experiment.spaces[0].name} is a range: 'nacdeploy compress --automatic' proposes its values"
        )
    return experiment.compression


def job_main(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a script's main function: called without arguments, or with the path of a configuration, it gets the
    configuration as `config`, or those of its keys that its signature names. A number that it returns is reported."""

    @functools.wraps(function)
    def run(path: Path | str | None = None) -> Any:
        config = load_config(path)
        names = inspect.signature(function).parameters
        takes_all = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in names.values())
        given = {"config": config} if "config" in names else {}
        given |= {key: value for key, value in config.items() if takes_all or key in names}
        value = function(**given)
        if isinstance(value, Real) and not isinstance(value, bool):
            report_result(value)
        return value

    return run


def _seed(seed: int) -> None:
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
