"""The outputs of a network to which the classes of a data set belong, if there are more outputs than classes.

`images.classes` is "index" (a class is named by its index) or a file: one name per line, or JSON in one of the forms
`[name, ...]`, `{"index": name}` and `{name: index}`; in place of a name a list of synonyms may stand.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.base.records import read_json, read_text
from nacdeploy.data.sets import ImageSet, Splits

BY_INDEX = "index"
_WORDNET = re.compile(r"n\d{8}\b")


Row = tuple[int, list[str]]


def output_names(classes: str | None, n_classes: int | None) -> tuple[str, ...]:
    """Return the names of a network's outputs where no class of the data has to be one of them.

    Raises:
        UsageError: the file is not readable, or the number of outputs is open.
    """
    if classes not in (None, BY_INDEX):
        return _shown(_of_file(Path(classes).expanduser()), n_classes, classes)
    if n_classes is None:
        raise UsageError("nothing says how many outputs the network has; set images.n_classes")
    return tuple(map(str, range(n_classes)))


def on_outputs(splits: Splits, classes: str, n_classes: int | None) -> Splits:
    """Return the splits with labels that are indices of a network's outputs, and with the names of all outputs.

    Raises:
        UsageError: the file is not readable, gives no index to a class of the splits, or the number of outputs is open.
    """
    rows = _by_index(splits.class_names, n_classes) if classes == BY_INDEX else _of_file(Path(classes).expanduser())
    shown = _shown(rows, n_classes, classes)
    index = _index(rows)
    strange = [name for name in splits.class_names if name not in index]
    if strange:
        raise UsageError(f"images.classes = '{classes}' has no class '{strange[0]}'{nearest(strange[0], index)}")
    outputs = torch.tensor([index[name] for name in splits.class_names])
    if len(outputs.unique()) < 2:
        raise UsageError(f"images.classes = '{classes}' gives all classes of the data the same output")
    train, validation, test = (
        ImageSet(split.images, outputs[split.labels]) for split in (splits.train, splits.validation, splits.test)
    )
    return replace(splits, train=train, validation=validation, test=test, class_names=shown)


def _by_index(class_names: Sequence[str], n_classes: int | None) -> list[Row]:
    strange = [name for name in class_names if not name.isdecimal()]
    if strange:
        raise UsageError(f"images.classes = 'index' takes classes called by a number, and '{strange[0]}' is none")
    if n_classes is None:
        raise UsageError("images.classes = 'index' needs the number of the network's outputs; set images.n_classes")
    return [(int(name), [name]) for name in class_names]


def _of_file(path: Path) -> list[Row]:
    """Read the names of the outputs from a file."""
    rows = _of_json(read_json(path), path) if path.suffix == ".json" else _of_lines(path)
    if not rows:
        raise UsageError(f"{path} names no class; it holds one name per line, or JSON")
    return rows


def _of_lines(path: Path) -> list[Row]:
    """Read one name per line, without empty lines at the end; a line may begin with WordNet's number of its class."""
    try:
        lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    except OSError as error:
        raise UsageError(f"images.classes: {path} is not a readable text file ({error})") from error
    return [(number, [line, *_WORDNET.findall(line)[:1]]) for number, line in enumerate(lines)]


def _of_json(data: Any, path: Path) -> list[Row]:
    if isinstance(data, list):
        return [(number, _names(names)) for number, names in enumerate(data)]
    if isinstance(data, dict) and data and all(str(key).isdecimal() for key in data):
        return [(int(key), _names(names)) for key, names in data.items()]
    if isinstance(data, dict) and all(isinstance(value, int) for value in data.values()):
        return [(number, [name]) for name, number in data.items()]
    raise UsageError(f'{path} gives no class names; its JSON is [name, ...], {{"0": name, ...}} or {{name: 0, ...}}')


def _names(given: Any) -> list[str]:
    return [str(name) for name in given] if isinstance(given, list) and given else [str(given)]


def _shown(rows: Sequence[Row], n_classes: int | None, classes: str) -> tuple[str, ...]:
    """Return the first name of every output; an output without a name is shown by its number."""
    first = {number: names[0] for number, names in reversed(rows)}
    n_outputs = max(first) + 1 if n_classes is None else n_classes
    wrong = [number for number in first if not 0 <= number < n_outputs]
    if wrong:
        name, last = first[wrong[0]], n_outputs - 1
        raise UsageError(f"images.classes = '{classes}': '{name}' is {wrong[0]}; outputs go from 0 to {last}")
    missing = [number for number in range(n_outputs) if number not in first]
    if missing and n_classes is None:
        raise UsageError(f"{classes} names no class {missing[0]}; set images.n_classes to the network's outputs")
    return tuple(first.get(number, str(number)) for number in range(n_outputs))


def _index(rows: Sequence[Row]) -> dict[str, int]:
    """Return the output of every name that means a single output (ImageNet has two named "crane")."""
    found: dict[str, set[int]] = {}
    for number, names in rows:
        for name in names:
            found.setdefault(name, set()).add(number)
    return {name: numbers.pop() for name, numbers in found.items() if len(numbers) == 1}
