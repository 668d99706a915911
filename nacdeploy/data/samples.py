"""Samples from lists of a source's own, image by image with its label's name, to three splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.data.files import Files, as_splits, completed
from nacdeploy.data.pictures import Place
from nacdeploy.data.sets import Splits
from nacdeploy.profile.tables.training import DataTable


@dataclass(frozen=True)
class Sample:
    """The place of an image, and the name of its class, None if it has none."""

    place: Place
    label: str | None


def splits_of(
    by_split: Mapping[str, Sequence[Sample]],
    source: str,
    table: DataTable,
    class_names: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Splits:
    """Return the splits "training", "validation" and "test" of samples; missing ones are taken from train by seed.

    A single split, whatever it is called, is taken for train. Classes without names of their own are those of the
    samples: numbers in their order, texts in alphabetical order.

    Raises:
        UsageError: there are no training images, some labels are missing, or there is one class only.
    """
    if len(by_split) == 1:
        by_split = {"training": next(iter(by_split.values()))}
    if not by_split.get("training"):
        raise UsageError(f"{source} has no training images")
    labels = {sample.label for samples in by_split.values() for sample in samples}
    if labels == {None}:
        return replace(_made(by_split, {None: 0}, ("",), source, table), is_labelled=False)
    if None in labels:
        without = next(s for samples in by_split.values() for s in samples if s.label is None)
        raise UsageError(f"{source}: {without.place} has no label, and others have one")
    names = tuple(class_names) if class_names is not None else _names({str(label) for label in labels})
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    if strange := labels - numbers.keys():
        raise UsageError(f"{source} has no class '{min(map(str, strange))[:100]}'")
    if len(labels) < 2:
        raise UsageError(
            f"{source} has one class only, '{min(map(str, labels))[:100]}'; a classifier needs two or more"
        )
    made = _made(by_split, numbers, names, source, table)
    return replace(made, notes=(*notes, *made.notes))


def _names(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(map(str, range(max(map(int, labels)) + 1)))
    return tuple(sorted(labels))


def _made(
    by_split: Mapping[str, Sequence[Sample]],
    numbers: Mapping[str | None, int],
    names: tuple[str, ...],
    source: str,
    table: DataTable,
) -> Splits:
    files = {
        split: Files(tuple(s.place for s in samples), torch.tensor([numbers[s.label] for s in samples]))
        for split, samples in by_split.items()
        if samples
    }
    train, validation, test = (files.get(split) for split in ("training", "validation", "test"))
    assert train is not None  # asked by `splits_of`
    given, made = completed(train, validation, test, names, table.split_seed, some_elsewhere=True)
    return as_splits(given, names, source + made, table)
