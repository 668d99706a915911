"""An ONNX file as a torch network: what runs in production without its training code.

`parts` gives what torch holds of a graph and what stays ONNX around it, `module` the network, with torch's own layers
under the names of their nodes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from nacdeploy.models.from_onnx import regions
from nacdeploy.models.from_onnx.graph import reading
from nacdeploy.models.from_onnx.graph.lifting import lifted
from nacdeploy.models.from_onnx.module import Input, OnnxModule, input_of, unread
from nacdeploy.models.from_onnx.naming import Name, is_onnx, parsed
from nacdeploy.models.from_onnx.regions import Parts
from nacdeploy.models.from_onnx.trial import Zeros

__all__ = [
    "Name",
    "OnnxModule",
    "Parts",
    "digest",
    "inputs",
    "is_onnx",
    "module",
    "parsed",
    "parts",
    "path_of",
]

_READ: dict[tuple[str, str], Parts] = {}  # the last one: a task, its network and its artifact read the same file


def path_of(name: str) -> Path:
    """Return the file that a model's name names."""
    return parsed(name).path


def digest(name: str | Path) -> str:
    """Return the sha256 of a file with all its values.

    Raises:
        UsageError: it is not there, or its values are missing.
    """
    return hashlib.sha256(reading.content(path_of(str(name)))).hexdigest()


def parts(name: Name) -> Parts:
    """Return what torch holds of a file, and what stays around it.

    Raises:
        UsageError: it is no ONNX file, damaged, or nothing is left for a network.
    """
    key = (digest(name.path), str(name))
    if key not in _READ:
        _READ.clear()
        _READ[key] = _parts(name)
    return _READ[key]


def inputs(name: Name) -> tuple[Input, ...]:
    """Return the inputs of a file, in order, without those that are fixed.

    Raises:
        UsageError: it is no ONNX file, or damaged.
    """
    model = reading.as_written(name.path)
    batched = reading.samples(model)
    given = [input_of(each) for each in reading.inputs(model) if each.name not in name.fixed]
    return tuple(replace(each, is_sample=each.name in batched) for each in given)


def module(source: Path | Name, shapes: Mapping[str, Sequence[int]] | None = None) -> OnnxModule:
    """Return the network of an ONNX file, for inputs of certain shapes (without the batch) where the file leaves them
    open and the name says nothing.

    Raises:
        UsageError: it is no ONNX file, damaged, or has operators that are not read.
    """
    name = Name(source) if isinstance(source, Path) else source
    found = parts(name if name.shapes or not shapes else replace(name, shapes=shapes))
    return OnnxModule(found.network, str(name.path), found.left)


def _parts(name: Name) -> Parts:
    read = reading.read(name)
    model = read.model
    shapes = {each.name: _shape(each) for each in model.graph.input}
    batched = [each for each in read.samples if each in shapes]
    batches = {shapes[each][0] for each in batched}
    whole = {key: shape[1:] if key in batched else _one(shape, read.inner.get(key)) for key, shape in shapes.items()}
    if any(None in shape for key, shape in whole.items()):
        return Parts(model, lifted(model))  # nothing can be tried while sizes are open
    trial = Zeros(
        str(name.path),
        {key: [size for size in shape if size] for key, shape in whole.items()},
        {each.name: each.type.tensor_type.elem_type for each in model.graph.input},
        tuple(batched),
        read.inner,
        next(iter(batches), None),
    )
    found = regions.cut(
        model,
        where=str(name.path),
        exclude=name.exclude,
        refused=unread(model.graph),
        samples=batched,
        trial=trial,
        batch=trial.batch,
    )
    return replace(found, network=lifted(found.network), batch=trial.batch)


def _one(shape: list[int | None], batch: int | None) -> list[int | None]:
    return [1 if axis == batch else size for axis, size in enumerate(shape)]


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]
