"""The options that commands share, each written once: its type, its default and how the command line spells it.

Python callers give them as keywords (`**shared: Unpack[Options]`), the command line builds its flags from them
(`cli/options.py`), and a run records those that name what it is about (`RECORDED`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast, get_args, get_type_hints

from nacdeploy.base import live
from nacdeploy.base.errors import UsageError, unknown

SETTINGS_FILE = "nacdeploy.toml"


@dataclass(frozen=True)
class Spelling:
    """The spelling of an option at the command line: its help, its value's name, its default, and the least number."""

    help: str = ""
    metavar: str | None = None
    default: Any = None
    least: int | None = None


class Options(TypedDict, total=False):
    """The options that commands share; None, or one that is left out, leaves a choice to the profile.

    `settings_file` holds what nacdeploy.toml says of the command's options: where a value is the file's own, the
    settings name the file as its source.
    """

    model: Annotated[str | None, Spelling("Built-in name, torchvision:NAME, timm:NAME or path/file.py:factory.", "M")]
    data: Annotated[
        str | None,
        Spelling(
            "digits, fashion-mnist, cifar10, folder:PATH, csv:FILE, wds:SHARDS, hf:PATH ... (README lists them).", "D"
        ),
    ]
    task: Annotated[
        Any, Spelling("A task of one's own in place of model and data: path/file.py:function.", "FILE.py:F")
    ]
    width: Annotated[float | None, Spelling("Width of a built-in model.")]
    normalize: Annotated[
        str | None,
        Spelling(
            "Of the images: imagenet, data (their own), model (the network's), or MEAN/STD such as 0.5/0.25.", "N"
        ),
    ]
    classes: Annotated[
        str | None,
        Spelling("Class names by output of the network, or 'index': folders are called by them.", "FILE"),
    ]
    input_size: Annotated[int | None, Spelling("Side of the square that images are resized to.", "PX", least=4)]
    preprocess: Annotated[
        str | None,
        Spelling("Size and normalisation of a pretrained network: timm, torchvision:WEIGHTS (README).", "P"),
    ]
    checkpoint: Annotated[str | None, Spelling("FP32 network: a folder of ours, a .safetensors or .pt file.", "C")]
    profile: Annotated[str, Spelling("Shipped name or path/to.toml.", "P", "demo")]
    seed: Annotated[int | None, Spelling("Seed of everything that is drawn.", least=0)]
    runs: Annotated[Path | str, Spelling(default="runs")]
    wandb: Annotated[bool, Spelling("Log to Weights & Biases (offline without key or network).", default=True)]
    mlflow: Annotated[bool, Spelling("Log to MLflow (runs/mlflow, or MLFLOW_TRACKING_URI).", default=False)]
    new_head: Annotated[
        bool, Spelling("Where --checkpoint has other classes, draw a new head and train from there.", default=False)
    ]
    settings_file: Annotated[Mapping[str, Any], Spelling(default={})]


class SearchOptions(Options, total=False):
    """The options of a search: those that commands share, and keys of the profile's search table."""

    searcher: Annotated[str | None, Spelling("surrogate, beam, dqn or random.", "X")]
    budget: Annotated[int | None, Spelling("Chains to evaluate.", least=1)]
    max_trainings: Annotated[int | None, Spelling("Trainings after which it ends.", "N", least=1)]
    max_drop: Annotated[float | None, Spelling("What may be lost, in the metric's unit.", "POINTS", least=0)]
    objective: Annotated[str | None, Spelling("budget, latency, pareto or nac.", "X")]
    target_ms: Annotated[float | None, Spelling("The most that the answer may take, in ms on the target.", "MS")]
    speedup: Annotated[float | None, Spelling("The same as a ratio to the FP32 baseline's time.", "RATIO")]
    max_hours: Annotated[float | None, Spelling("Hours after which it ends.", "H")]
    latency_table: Annotated[
        str | None, Spelling("Times of another machine, written there by analyze --latency-table.", "FILE")
    ]
    cache: Annotated[
        str | None, Spelling("Shared memory of searches: a folder or an fsspec URL (s3://...).", "LOCATION")
    ]
    experience: Annotated[
        Sequence[Path | str] | None, Spelling("An earlier search whose journal teaches what letters do.", "RUN")
    ]


HINTS: dict[str, Any] = get_type_hints(Options, include_extras=True)
SPELLINGS: dict[str, Spelling] = {name: get_args(hint)[1] for name, hint in HINTS.items()}
SEARCH_HINTS = {
    name: hint for name, hint in get_type_hints(SearchOptions, include_extras=True).items() if name not in HINTS
}
SEARCH = tuple(SEARCH_HINTS)
TASK = (
    "model",
    "data",
    "task",
    "width",
    "input_size",
    "preprocess",
    "normalize",
    "classes",
    "checkpoint",
    "new_head",
    "profile",
    "seed",
)
TRACKERS = ("wandb", "mlflow")
# What a run was asked for; where it lies and who watches it is said anew.
ASIDE = ("runs", *TRACKERS, "settings_file")
RECORDED = tuple(name for name in HINTS if name not in ASIDE)


def texts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with paths as texts, which is what files and records hold."""
    return {name: fspath(each) if isinstance(each, PathLike) else each for name, each in options.items()}


def filled(options: Options) -> Options:
    """Return all options, with the default of each that is None or left out, paths as texts, and the name of a task
    that is an object.

    Raises:
        UsageError: there is no such option, or a task stands beside a model or data.
    """
    for name in options.keys() - SPELLINGS.keys():
        raise unknown("option", name, SPELLINGS)
    given = {name: each for name, each in texts(options).items() if each is not None}
    found = {name: spelling.default for name, spelling in SPELLINGS.items()} | given
    if found["task"] is None:
        return cast(Options, found)
    for name in ("model", "data", "width", "normalize", "classes", "input_size", "new_head"):
        if found[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} stands beside --task, which brings network and data: give one"
            )
    task = found["task"]
    return cast(Options, {**found, "task": task if isinstance(task, str) else live.register(task)})
