"""An ONNX file as a graph that is ready to be turned into a module: checked, simplified, in single precision.

Nothing of the file is run, and the file itself is never written.
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors, onnx_files, own

_HALF = TensorProto.FLOAT16


@dataclass(frozen=True)
class Read:
    """A graph that was read, and what was done to it, one line each."""

    model: onnx.ModelProto
    notes: tuple[str, ...]


def read(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Read:
    """Read an ONNX file, with the values that it keeps in other files of its own folder.

    `shapes` are those of its inputs without the batch, where the file leaves them open.

    Raises:
        UsageError: it is not there, is none, is not well formed, or its values are missing.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there; give the ONNX file of a network")
    model = _parsed(path)
    _load_external(model, path)
    model = _with_shapes(model)
    try:
        onnx_files.check(model, str(path))
    except UsageError as error:
        raise UsageError(f"{error}; nacdeploy reads graphs of ONNX's own operators") from error
    notes = []
    if _has_half(model):
        model, notes = _single(model), ["half precision is read as single precision"]
    _fix(model, shapes or {})
    return Read(_simplified(model), tuple(notes))


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the shapes of outputs that leave them out, as runtimes allow."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return model
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # said better by the check that follows
        return model


def _fix(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write sizes into the open axes of inputs, so that what follows from them is a constant."""
    for value in model.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim[1:], shapes.get(value.name, ()), strict=False):
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


def _has_half(model: onnx.ModelProto) -> bool:
    values = (*model.graph.input, *model.graph.output)
    return any(v.type.tensor_type.elem_type == _HALF for v in values) or any(
        t.data_type == _HALF for t in model.graph.initializer
    )


def _single(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in made.graph.initializer:
        if tensor.data_type == _HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    for node in made.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == _HALF:
                values = numpy_helper.to_array(attribute.t).astype("float32")
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    for value in (*made.graph.input, *made.graph.output, *made.graph.value_info):
        if value.type.tensor_type.elem_type == _HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return made
