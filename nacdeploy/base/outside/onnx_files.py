"""The door for ONNX files: a graph of known operators whose values lie in the file itself.

Anybody may have written such a file. It is checked before any of it is used: by ONNX's own checker, and for the
assumptions of this package's readers that the checker leaves open.
"""

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_PACKED = frozenset({TensorProto.STRING, TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1})
_LEAST_INPUTS = {
    "QuantizeLinear": 2,
    "DequantizeLinear": 2,
    "Conv": 2,
    "ConvTranspose": 2,
    "MatMul": 2,
    "Gemm": 2,
    "Add": 2,
}
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def read(content: bytes, where: str) -> onnx.ModelProto:
    """Read the graph in the bytes of an ONNX file.

    Raises:
        UsageError: it is none, is not well formed, or names values that lie in another file.
    """
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{where} is no ONNX file, or damaged ({_line(error)})") from error
    check(model, where)
    return model


def check(model: onnx.ModelProto, where: str) -> None:
    """Check a graph that was read.

    Raises:
        UsageError: it is not well formed, or names values that lie in another file.
    """
    if outside := next(external(model), None):
        raise UsageError(
            f"{where} takes the values of '{outside.name[:80]}' from another file, which has no hash and is not read; "
            "export the artifact again: its graph holds its values itself"
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} is no valid ONNX graph: {_line(error)}") from error
    if problem := next(_problems(model), None):
        raise UsageError(f"{where} is no valid ONNX graph: {problem}")


def external(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Return the tensors whose values lie in another file."""
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield tensor


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor of a graph and of the branches in it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(inner)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph and of the branches in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from nodes(inner)


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    names = Counter(node.name for node in graph.node if node.name)
    yield from (f"{n} nodes are called '{name[:80]}'" for name, n in names.items() if n > 1)
    yield from (f"operators of '{node.domain[:80]}' are not run" for node in nodes(graph) if node.domain not in DOMAINS)
    yield from (problem for tensor in _tensors(graph) if (problem := _of_tensor(tensor)))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    yield from (problem for node in graph.node if (problem := _of_node(node, shapes)))


def _of_tensor(tensor: TensorProto) -> str | None:
    """Return the problem of the values of a tensor."""
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        return f"'{tensor.name[:80]}' is of no type"
    if any(length < 0 for length in tensor.dims):
        return f"'{tensor.name[:80]}' has the shape {tuple(tensor.dims)}"
    if not tensor.HasField("raw_data") or tensor.data_type in _PACKED:
        return None
    wanted = prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    held = len(tensor.raw_data)
    return None if wanted == held else f"'{tensor.name[:80]}' has {held} bytes, and its shape takes {wanted}"


def _of_node(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the problem of the number of inputs, the scale of a constant, or the weight of a multiplication."""
    if (least := _LEAST_INPUTS.get(node.op_type, 0)) > len(node.input):
        return f"'{node.name[:80]}' ({node.op_type}) has {len(node.input)} inputs and needs {least}"
    if node.op_type in _PAIR and node.input[0] in shapes:
        if any(name and name not in shapes for name in node.input):
            return f"'{node.name[:80]}' changes a constant by what is none"
        shape = shapes[node.input[0]]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        for scale in (shapes[name] for name in node.input[1:] if name):
            if scale != () and (not -len(shape) <= axis < len(shape) or scale not in ((1,), (shape[axis],))):
                return f"'{node.name[:80]}' has scales of shape {scale} for values of shape {shape}"
    if node.op_type in ("Conv", "ConvTranspose") and len(shapes.get(node.input[1], (0, 0, 0))) < 3:
        return f"'{node.name[:80]}' convolves with a weight of shape {shapes[node.input[1]]}"
    return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def content_of(path: Path) -> bytes:
    """Read the bytes of an ONNX file and check them.

    Raises:
        UsageError: see `read`.
    """
    found = doors.read_bytes(path)
    read(found, str(path))
    return found
