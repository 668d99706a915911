"""The name of an ONNX file as a model: its path, and how it is read.

`net.onnx?exclude=/head/*&fix=sr:16000&shape=pixels:3x320x320` leaves the nodes `/head/*` as they are, takes 16000 for
the input `sr`, and inputs of that shape without the batch. The name is what records, workers and checkpoints keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base.errors import UsageError

PREFIX, SUFFIX = "onnx:", ".onnx"
MOST_FIXED = 64  # values of a fixed input: more are data
_KEYS = ("exclude", "fix", "shape")
_PLAIN = "/:*.?[]-_x,"


@dataclass(frozen=True)
class Name:
    """How a file is read.

    Attributes:
        exclude: patterns of node names that stay as they are in the file.
        fixed: the values of inputs that are the same at every call, by name.
        shapes: the shapes of inputs without the batch.
    """

    path: Path
    exclude: tuple[str, ...] = ()
    fixed: Mapping[str, NDArray] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"exclude={_quoted(each)}" for each in self.exclude]
        parts += [f"fix={_quoted(name)}:{_written(value)}" for name, value in self.fixed.items()]
        parts += [f"shape={_quoted(name)}:{'x'.join(map(str, shape))}" for name, shape in self.shapes.items()]
        return f"{self.path}{'?' if parts else ''}{'&'.join(parts)}"


def is_onnx(name: str) -> bool:
    """Tell whether a model's name names an ONNX file: `net.onnx`, `onnx:PATH` or `net.onnx?exclude=NODE`."""
    return name.startswith(PREFIX) or name.partition("?")[0].endswith(SUFFIX)


def parsed(name: str) -> Name:
    """Read the name of a model.

    Raises:
        UsageError: what follows the `?` is not understood.
    """
    path, _, query = name.removeprefix(PREFIX).partition("?")
    exclude, fixed, shapes = list[str](), dict[str, NDArray](), dict[str, Sequence[int]]()
    for part in filter(None, query.split("&")):
        key, is_given, value = part.partition("=")
        first, _, last = value.rpartition(":")
        try:
            if key == "exclude" and is_given:
                exclude.append(unquote(value))
            elif key == "fix" and first:
                fixed[unquote(first)] = value_of(last)
            elif key == "shape" and first:
                shapes[unquote(first)] = [int(n) for n in last.split("x") if n]
            else:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"'{part[:80]}' in the model's name '{name[:200]}' is not understood; known: exclude=NODE, "
                "fix=INPUT:VALUE, shape=INPUT:3x320x320"
            ) from None
    return Name(Path(path).expanduser(), tuple(exclude), fixed, shapes)


def fixed_by(words: Sequence[str]) -> dict[str, NDArray]:
    """Read `INPUT=VALUE` words: the values of inputs that are the same at every call.

    Raises:
        UsageError: one of them is not understood.
    """
    found = dict[str, NDArray]()
    for word in words:
        name, is_given, value = word.rpartition("=")
        try:
            if not is_given or not name:
                raise ValueError
            found[name] = value_of(value)
        except ValueError:
            raise UsageError(f"'{word[:80]}' fixes no input; write INPUT=VALUE, such as sr=16000 or size=1,2") from None
    return found


def value_of(text: str) -> NDArray:
    """Read the value of a fixed input: a number, numbers `3,4`, or numbers and their shape `3,4@1x2`.

    Raises:
        ValueError: it is none.
    """
    numbers, has_shape, shape = text.partition("@")
    values = [float(each) for each in numbers.split(",")]
    kept = np.array(values, np.int64 if all(v.is_integer() for v in values) and "." not in numbers else np.float32)
    wanted = [int(n) for n in shape.split("x") if n] if has_shape else ([] if len(values) == 1 else [len(values)])
    if prod(wanted) != len(values):
        raise ValueError(text)
    return kept.reshape(wanted)


def _written(value: NDArray) -> str:
    numbers = ",".join(str(each) for each in value.reshape(-1).tolist())
    return f"{numbers}@{'x'.join(map(str, value.shape))}" if value.ndim else numbers


def _quoted(text: str) -> str:
    return quote(text, safe=_PLAIN)
