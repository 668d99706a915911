"""A task of the user's own, opened: its network with ports, its data read and checked, its metric with functions."""

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from nacdeploy import brought, models
from nacdeploy.base import live
from nacdeploy.base.errors import UsageError
from nacdeploy.brought import reading, scoring
from nacdeploy.brought.reading import Epochs
from nacdeploy.brought.sources import Source, samples_of, source
from nacdeploy.brought.training import Trainer
from nacdeploy.data import Dataset
from nacdeploy.metrics import Metric
from nacdeploy.models import ModelSpec, ports
from nacdeploy.models.ports import Ports
from nacdeploy.profile import Profile
from nacdeploy.task.task import Task

_OPENED: WeakKeyDictionary[brought.Task, tuple[Any, Task]] = WeakKeyDictionary()
_PIXEL = (1, 1)


def is_own(model: str, data: str) -> bool:
    """Tell whether model and data are one task of the user's own."""
    return model == data and (models.is_file(model) or live.is_live(model))


def opened(name: str, profile: Profile) -> Task:
    """Open a task by the name of its function in a file, or of the Python object.

    The data are read once in a process.

    Raises:
        UsageError: the name leads to no task, a part of it fails, or the parts do not go together; the text names the
            place.
    """
    made = models.made(name)
    if not isinstance(made, brought.Task):
        raise UsageError(
            f"'{name}' returns {type(made).__name__}, not a nacdeploy.Task; --model takes a network's factory"
        )
    key = (name, profile.images.in_memory_mib, profile.images.split_seed)
    if made not in _OPENED or _OPENED[made][0] != key:
        _OPENED[made] = key, of(name, made, profile)
    return _OPENED[made][1]


def of(name: str, made: brought.Task, profile: Profile, data_name: str = "") -> Task:
    """Open a task that is at hand; `data_name` is the name of its data, if the task names only a network.

    Raises:
        UsageError: a part fails, or the parts do not go together; the text names the place.
    """
    sources = {
        split: source(f"task '{name}': {split}", given, made.unpacking)
        for split in ("train", "validation", "test", "calibration")
        if (given := getattr(made, split)) is not None
    }
    _check_apart(made, name)
    found = _ports(name, made, sources["validation"])
    for split in ("validation", "test"):
        if split in sources:
            reading.check_fixed(sources[split], found)
    limit = profile.images.in_memory_mib
    validation = reading.read(sources["validation"], found, limit)
    metric = _named(name, lambda: scoring.metric_of(made, found, validation.labels.batch()))
    classes = None if _is_custom(metric) else found.n_outputs
    splits = {"validation": validation}
    for split in ("train", "calibration"):
        if split in sources:
            with reading.seeded(profile.images.split_seed):
                splits[split] = reading.read(_spread(sources[split]), found, limit, most=reading.MOST_SAMPLES)
    if "test" in sources:
        splits["test"] = reading.read(sources["test"], found, limit)
    if classes is not None:
        labelled = [split for split in splits if split != "calibration"]
        splits |= {split: reading.with_classes(splits[split], classes, sources[split].name) for split in labelled}
    data = Dataset(
        name=data_name or name,
        train=splits.get("train", splits.get("calibration", validation)),
        validation=splits["validation"],
        test=splits.get("test", splits["validation"]),
        class_names=_class_names(made, found, classes),
        mean=(),
        std=(),
        split_seed=profile.images.split_seed,
        source="the task's own data",
        augment="none",
        n_answers=found.n_outputs,
        calibration=splits.get("calibration"),
        train_varies="train" in sources and reading.varies(sources["train"], found),
        epochs=Epochs(sources.get("train"), found, classes),
        identity=scoring.identity(made),
    )
    notes = _notes(name, data, found, metric, "test" in sources, sources.get("train"))
    train = sources.get("train")
    trainer = None if made.trainer is None else Trainer(made.trainer, made, samples_of(train))
    return Task(_spec(name, found), replace(data, notes=notes), metric, trainer=trainer)


def _named(name: str, call: Any) -> Any:
    try:
        return call()
    except UsageError as error:
        raise UsageError(f"task '{name}': {error}") from error


def _is_custom(metric: Metric) -> bool:
    return ":" in metric.name


def _check_apart(made: brought.Task, name: str) -> None:
    """Refuse data that stand for two splits: what decides would also judge."""
    splits = [(split, getattr(made, split)) for split in ("train", "validation", "test")]
    for i, (split, given) in enumerate(splits):
        for other, another in splits[:i]:
            if given is not None and given is another:
                raise UsageError(
                    f"task '{name}': {other} and {split} are the same object; give each split its own data"
                )


def _ports(name: str, made: brought.Task, validation: Source) -> Ports:
    """Find the inputs and outputs of the network on the first validation batch."""
    given, _ = next(iter(validation.batches()))
    try:
        given = {key: given[key] for key in given if key in made.arguments} if isinstance(given, dict) else given
        return ports.found(made.network(), given, made.arguments)
    except UsageError as error:
        raise UsageError(f"task '{name}': {error}") from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        what = (
            f"the network fails on a batch of validation: {type(error).__name__}: {lines[0][:300]}{_parts(given, made)}"
        )
        raise UsageError(f"task '{name}': {what}") from error


def _parts(given: Any, made: brought.Task) -> str:
    """Say what to do where a batch has more parts than the network takes: a list of images is one of each sample."""
    takes = ", ".join(made.arguments)
    if not isinstance(given, list | tuple) or len(given) <= len(made.arguments):
        return ""
    return f"; the batch has {len(given)} inputs, it takes {takes}: stack samples in collate_fn or Task(unpack=)"


def _spread(train: Source) -> Source:
    """Return data with samples from everywhere: data sets are often sorted by class."""
    n = len(train.indices)
    if train.dataset is None or n <= reading.MOST_SAMPLES:
        return train
    picked = torch.linspace(0, n - 1, reading.MOST_SAMPLES).long().tolist()
    return replace(train, indices=[train.indices[i] for i in picked])


def _class_names(made: brought.Task, found: Ports, classes: int | None) -> tuple[str, ...]:
    names = tuple(map(str, made.class_names))
    if names and len(names) != found.n_outputs:
        raise UsageError(f"Task(class_names=) has {len(names)} names, and the network {found.n_outputs} outputs")
    return names or tuple(map(str, range(classes or 0)))


def _spec(name: str, found: Ports) -> ModelSpec:
    shape = found.input_shape
    channels, size = (shape[0], shape[1:]) if len(shape) == 3 and shape[0] <= 10**4 else (1, _PIXEL)
    height, width = size
    return ModelSpec(name, found.n_outputs, channels, (height, width), None, models.digest(name), found)


def _notes(
    name: str, data: Dataset, found: Ports, metric: Metric, has_test: bool, train: Source | None
) -> tuple[str, ...]:
    """Say what was found, in one line for a user to look through."""
    n_train = "no" if train is None else str(len(train.indices)) if train.dataset is not None else "streamed"
    inputs, outputs = (
        ", ".join(f"{port.name} {'x'.join(map(str, port.shape)) or '1'} {port.dtype}" for port in side)
        for side in (found.inputs, found.outputs)
    )
    better = "higher" if metric.higher_is_better else "lower"
    lines = [
        f"task {name}: {n_train} training samples, {len(data.validation)} validation, "
        f"{len(data.test) if has_test else 'no'} test; inputs {inputs}; outputs {outputs}; metric {metric.title}, "
        f"{better} is better"
    ]
    if not has_test:
        lines.append("the task has no test data: the scores at the end are those on validation, which also decided")
    return tuple(lines)
