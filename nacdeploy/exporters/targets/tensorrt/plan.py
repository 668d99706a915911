"""What can be read from an engine: TensorRT-RTX's program text without a GPU, the inspector's JSON on one."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.artifact import Lowering

_TENSOR = re.compile(rb"\s*(?:sub_)?tensor=\{.*? name=\"([^\"]+)\"")
_TYPE = re.compile(rb" type=(\w+) \}$")
_OPERATION = re.compile(rb"\s*\w+=\{ name=\"([^\"]+)\" output=\{[^}]*\} input=\{([^}]*)\}")
_QUOTED = re.compile(rb"\"([^\"]+)\"")
_TYPES = {b"int8": "int8", b"half": "float16", b"float": "float32"}
_INTERNAL_NAME = re.compile(rb"mye\d+")

# The inspector's words for the type of a tensor: "Half", "Thirty-two wide channel vectorized row major Int8 format."
# TensorRT 11 tells the type apart from the format.
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format")
_FORMATS = {"int8": "int8", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32", "fp8": "fp8"}
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_COMPUTING = ("conv", "gemm", "matmul", "matrixmultiply", "deconv", "fullyconnected")


@dataclass(frozen=True)
class InspectedLayer:
    """One layer of an engine as it runs: a fusion of ONNX `nodes` ("" in none), the type of its first input and first
    output ("" where the inspector names none), and whether its tactic is a sparse kernel."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    input_type: str
    output_type: str
    tactic: str
    is_sparse: bool
    is_reformat: bool


def layer_types(plan: bytes) -> dict[str, str]:
    """The type of the operands of each multiplication in an engine, by ONNX node name: "int8", "float16", "float32".

    TensorRT-RTX writes its compiled program as text into the engine, and nothing else of an engine is readable without
    a GPU. The form of this text is not documented: a node that is not in the result is unknown, not float.
    """
    types: dict[bytes, bytes] = {}
    nodes: dict[str, str] = {}
    for line in plan.split(b"\n"):
        if (tensor := _TENSOR.match(line)) and (kind := _TYPE.search(line)):
            same = types.setdefault(tensor[1], kind[1]) == kind[1]
            types[tensor[1]] = kind[1] if same else b""
        elif operation := _OPERATION.match(line):
            operands = {types.get(name, b"") for name in _QUOTED.findall(operation[2])[:2]}
            if len(operands) == 1 and (known := _TYPES.get(operands.pop())):
                nodes[operation[1].decode(errors="replace")] = known
    return nodes


def engine_notes(rows: Iterable[Lowering], layers: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """One note per engine (`layers`: types by capability and node) that computes in float what the graph holds in
    INT8."""
    int8, notes = [row for row in rows if row.held == "int8"], []
    for capability, types in layers.items():
        found = {row.layer: types[row.node] for row in int8 if types.get(row.node, "int8") != "int8"}
        if found:
            kinds, names = "/".join(sorted(set(found.values()))), ", ".join(found)
            notes.append(f"{capability}: {len(found)} of {len(int8)} INT8 layers are computed in {kinds} ({names})")
    return tuple(notes)


def canonical(plan: bytes) -> bytes:
    """A TensorRT-RTX engine with its internal tensors (`__mye4683`) numbered by first appearance: the builder numbers
    them as its threads and addresses fall, and the program is the same."""
    numbers: dict[bytes, int] = {}
    return _INTERNAL_NAME.sub(lambda name: b"mye%d" % numbers.setdefault(name[0], len(numbers)), plan)


def inspected(text: str) -> tuple[InspectedLayer, ...]:
    """The layers of `EngineInspector.get_engine_information(LayerInformationFormat.JSON)`.

    The form is that of TensorRT's documentation ("Engine Inspector", detailed verbosity): `{"Layers": [{"Name": ...,
    "LayerType": ..., "Inputs": [{"Format/Datatype": ...}], "TacticName": ..., "Metadata": "[ONNX Layer: conv1]"}]}`;
    TensorRT 11 has "DataType" and "Format" in place of "Format/Datatype" (its migration guide from 10).

    Raises:
        NacdeployError: it is not of this form, or the engine was built without detailed profiling verbosity.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise NacdeployError("the engine inspector's answer is no JSON with 'Layers'") from error
    if not all(isinstance(layer, dict) for layer in layers):
        raise NacdeployError("the engine holds layer names only: build it with profiling verbosity DETAILED")
    return tuple(_layer(layer) for layer in layers)


def precisions(layers: Iterable[InspectedLayer]) -> dict[str, str]:
    """The type that each ONNX node's layer reads, for the layers that multiply; as `layer_types`, on a GPU."""
    return {
        node: layer.input_type
        for layer in layers
        if layer.input_type and not layer.is_reformat and _multiplies(layer)
        for node in layer.nodes
    }


def _layer(layer: dict[str, Any]) -> InspectedLayer:
    tactic, kind, metadata = (str(layer.get(key, "")) for key in ("TacticName", "LayerType", "Metadata"))
    return InspectedLayer(
        name=str(layer.get("Name", "")),
        kind=kind,
        nodes=tuple(name.strip() for name in _NODE.findall(metadata)),
        input_type=_tensor_type(layer.get("Inputs")),
        output_type=_tensor_type(layer.get("Outputs")),
        tactic=tactic,
        is_sparse="sparse" in tactic.lower(),  # such as sm80_xmma_fprop_sparse_conv_interleaved_...
        is_reformat=kind.lower() in ("reformat", "noop"),
    )


def _tensor_type(tensors: Any) -> str:
    if not isinstance(tensors, list) or not tensors or not isinstance(tensors[0], dict):
        return ""
    said = " ".join(str(tensors[0].get(key, "")) for key in _TYPE_KEYS).lower()
    return next((_FORMATS[word] for word in re.findall(r"[a-z0-9]+", said) if word in _FORMATS), "")


def _multiplies(layer: InspectedLayer) -> bool:
    text = f"{layer.kind} {layer.name} {layer.tactic}".lower()
    return any(word in text for word in _COMPUTING)
