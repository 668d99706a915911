"""An ONNX file as a graph that is ready to be turned into a module: checked, simplified, in single precision.

Nothing of the file is run, and the file itself is never written.
"""

import io
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor
from onnx.inliner import inline_local_functions

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors, onnx_files, own
from nacdeploy.models.from_onnx.graph import folding, links
from nacdeploy.models.from_onnx.graph.unfusing import unfused
from nacdeploy.models.from_onnx.naming import Name

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NUMBERS = {*_HALF, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8}
_NUMBERS |= {TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
_WEIGHTS_ALONE = 4  # the first version of the format that has weights which are no inputs


@dataclass(frozen=True)
class Read:
    """A graph that was read, its inputs that have the batch first, and an open axis of each other input, its batch."""

    model: onnx.ModelProto
    samples: tuple[str, ...]
    inner: Mapping[str, int]


def read(name: Name) -> Read:
    """Read an ONNX file, with the values that it keeps in other files of its own folder.

    The name's shapes are those of inputs, without the batch where the batch is first; they fix what the file leaves
    open.

    Raises:
        UsageError: it is not there, is none, is not well formed, or its values are missing.
    """
    model = as_written(name.path)
    model = _single(model) if is_half(model) else model
    _check_inputs(model, name)
    _check_outputs(model, name)
    batched = samples(model)
    inner = {each.name: axis for each in inputs(model) if (axis := _open(each)) is not None}
    _fix(model, name.shapes, batched, inner)
    folding.fixed(model, name.fixed)
    return Read(_simplified(unfused(folding.decided(model))), batched, inner)


def as_written(path: Path) -> onnx.ModelProto:
    """Return the graph of a file as it stands there, with all its values and without functions of its own.

    Raises:
        UsageError: it is not there, is none, is not well formed, or its values are missing.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there; give the ONNX file of a network")
    model = _parsed(path)
    _load_external(model, path)
    _check_opset(model, path)
    model = _with_shapes(_sorted(_inlined(model)))
    _check_known(model, path)
    onnx_files.check(_for_checker(model), str(path))
    _check_kinds(model, path)
    return model


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    found = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    if found > newest:
        raise UsageError(f"{path} is written in opset {found}, and the newest that is read here is {newest}")


def _check_kinds(model: onnx.ModelProto, path: Path) -> None:
    """Refuse inputs that are no tensors of numbers."""
    for value in inputs(model):
        kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else TensorProto.UNDEFINED
        if kind not in _NUMBERS:
            name = TensorProto.DataType.Name(kind).lower() if kind else value.type.WhichOneof("value")
            raise UsageError(f"{path}: input '{value.name[:80]}' is of type {name}; needed: a tensor of numbers")
        if not value.type.tensor_type.HasField("shape"):
            raise UsageError(f"{path}: input '{value.name[:80]}' has no shape; needed: at least its number of axes")


def _for_checker(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph as the checker wants it: with a shape for each output, and in a format where weights need not be
    inputs too. Runtimes take outputs without, and weights that are none."""
    is_old = model.ir_version < _WEIGHTS_ALONE
    if not is_old and all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return model
    made = onnx.ModelProto.FromString(model.SerializeToString())
    made.ir_version = max(made.ir_version, _WEIGHTS_ALONE)
    for value in made.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return made


def _check_known(model: onnx.ModelProto, path: Path) -> None:
    strange = next((n for n in onnx_files.nodes(model.graph) if n.domain not in onnx_files.DOMAINS), None)
    if strange is not None:
        raise UsageError(
            f"{path}: operator '{strange.domain[:80]}:{strange.op_type[:80]}' (node '{strange.name[:80]}') is of a "
            "domain that neither nacdeploy nor ONNX Runtime knows; export the file with ONNX's own operators there"
        )


def samples(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the inputs that have the batch first: as many as the first input of two axes or more, of which no other
    axis is called the batch."""
    given = {v.name: list(v.type.tensor_type.shape.dim) for v in inputs(model) if v.type.HasField("tensor_type")}
    firsts = [axes[0].dim_value for axes in given.values() if len(axes) > 1 and not _is_inner(axes)]
    firsts = firsts or [axes[0].dim_value for axes in given.values() if axes]
    is_one = lambda axes: bool(axes) and axes[0].dim_value == firsts[0] and not _is_inner(axes)  # noqa: E731
    return tuple(name for name, axes in given.items() if is_one(axes))


def _is_inner(axes: Sequence[Any]) -> bool:
    """Tell whether an axis behind the first is called the batch, and the first is not."""
    called = ["batch" in axis.dim_param.lower() or axis.dim_param.lower() in ("n", "b", "bs") for axis in axes]
    return any(called[1:]) and not called[0]


def _open(value: onnx.ValueInfoProto) -> int | None:
    return next((i for i, axis in enumerate(value.type.tensor_type.shape.dim) if axis.dim_value <= 0), None)


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {each.name for each in model.graph.initializer}
    return [each for each in model.graph.input if each.name not in constants]


def _check_inputs(model: onnx.ModelProto, name: Name) -> None:
    known = {each.name for each in inputs(model)}
    if strange := [each for each in name.fixed if each not in known]:
        raise UsageError(f"{name.path} has no input '{strange[0]}' to fix; it takes {', '.join(sorted(known))}")


def _check_outputs(model: onnx.ModelProto, name: Name) -> None:
    """Refuse outputs that no node computes."""
    made = {output for node in model.graph.node for output in node.output if node.op_type != "Constant"}
    if idle := [each.name for each in model.graph.output if each.name not in made]:
        raise UsageError(
            f"{name.path}: output '{idle[0][:80]}' is an input or a constant of the graph, which nothing makes faster; "
            "export the file without it"
        )


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the bodies of functions of the file's own in place of their calls."""
    if not model.functions:
        return model
    try:
        return inline_local_functions(model, convert_version=True)
    except Exception:  # said better by the check that follows
        return model


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose nodes follow those that they read from, as ONNX asks for and some converters forget."""
    seen = {each.name for each in (*model.graph.input, *model.graph.initializer)}
    for node in model.graph.node:
        if not links.reads_of(node) <= seen:
            nodes = links.ordered([onnx.NodeProto.FromString(each.SerializeToString()) for each in model.graph.node])
            del model.graph.node[:]
            model.graph.node.extend(nodes)
            break
        seen |= set(node.output)
    return model


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the shapes of outputs that leave them out, as runtimes allow."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return model
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # said better by the check that follows
        return model


def _fix(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], batched: Collection[str], inner: Mapping[str, int]
) -> None:
    """Write sizes into the open axes of inputs but the batch, so that what follows from them is a constant."""
    for value in model.graph.input:
        axes = list(enumerate(value.type.tensor_type.shape.dim))[value.name in batched :]
        for (i, axis), size in zip(axes, shapes.get(value.name, ()), strict=False):
            if value.name in batched or i != inner.get(value.name):
                axis.dim_value = size
    if shapes:
        del model.graph.value_info[:]
        for value in model.graph.output:
            for axis in value.type.tensor_type.shape.dim[1:]:
                axis.dim_param = axis.dim_param or "open"


def content(path: Path) -> bytes:
    """Return all bytes of an ONNX file and of the files in which it keeps values.

    Raises:
        UsageError: a file is not there, or lies outside the folder.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there; give the ONNX file of a network")
    found = doors.read_bytes(path)
    model = _parsed(path)
    places = sorted({_location(tensor, path) for tensor in onnx_files.external(model)})
    return found + b"".join(doors.read_bytes(place) for place in places)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(doors.read_bytes(path))
    except UsageError:
        raise
    except Exception as error:  # protobuf's errors share no class
        raise UsageError(f"{path} is no ONNX file, or damaged ({' '.join(str(error).split())[:200]})") from error


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    for tensor in onnx_files.external(model):
        place = _location(tensor, path)
        doors.check_file(place)
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:
            raise UsageError(
                f"{path}: the values of '{tensor.name[:80]}' in {place.name} are damaged: {error}"
            ) from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _location(tensor: TensorProto, path: Path) -> Path:
    """Return the file that holds the values of a tensor.

    Raises:
        UsageError: it lies outside the folder of the graph, or is not there.
    """
    named = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    place = path.parent / named
    is_inside = named and not PurePosixPath(named).is_absolute() and own.is_inside(place, [path.parent])
    if not is_inside:
        raise UsageError(f"{path} takes values from '{named[:200]}', which is not in its own folder")
    if not place.is_file():
        raise UsageError(f"{path} keeps its values in {place}, which is not there; put it beside the graph")
    return place


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and remove what does nothing; a graph that onnxslim cannot take stays as it is."""
    import onnxslim

    with _quiet():
        try:
            found = onnxslim.slim(onnx.ModelProto.FromString(model.SerializeToString()))
        except Exception:  # it raises what its passes raise; the graph is as right without it
            return model
    return found if isinstance(found, onnx.ModelProto) else model


@contextmanager
def _quiet() -> Iterator[None]:
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(former)


def is_half(model: onnx.ModelProto) -> bool:
    """Tell whether a graph computes in half precision."""
    values = (*model.graph.input, *model.graph.output)
    return any(v.type.tensor_type.elem_type in _HALF for v in values) or any(
        t.data_type in _HALF for t in model.graph.initializer
    )


def _single(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto.FromString(model.SerializeToString())
    _to_single(made.graph)
    return made


def _to_single(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.type == AttributeProto.INT and attribute.i in _HALF:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen(attribute.t)
            for inner in folding.inner_graphs(attribute):
                _to_single(inner)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
