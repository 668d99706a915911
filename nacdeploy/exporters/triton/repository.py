"""A model repository of an artifact: one model; with exits in segments one for each, and one with the gate.

REPOSITORY/net/config.pbtxt, labels.txt, 1/model.onnx
REPOSITORY/net/config.pbtxt, labels.txt, 1/model.py, 1/served/...    the gate (business logic)
REPOSITORY/net_segment_0/config.pbtxt, 1/model.onnx ...
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path, PurePosixPath

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.cascades.confidence import RULES
from nacdeploy.exporters.artifacts import artifact, preprocess
from nacdeploy.exporters.artifacts.artifact import Manifest, TensorInfo
from nacdeploy.exporters.artifacts.cascade_files import CascadeFiles, SegmentFile
from nacdeploy.exporters.triton.configuration import (
    LABELS,
    ONNX_RUNTIME,
    OPENVINO,
    PYTHON,
    TENSORRT,
    Model,
    Served,
    Step,
    config,
    named,
)
from nacdeploy.metrics import gate_of

VERSION = "1"
EXIT = "exit"  # the output that says which exit answered
_BACKEND, _CASCADES = "nacdeploy.exporters.triton.backend", "nacdeploy.cascades"
_ONNX = "model.onnx"


def write(folder: Path, out: Path, served: Served, name: str = "") -> tuple[str, ...]:
    """Write the repository of an artifact, whole or not at all; return the names of its models, the first to be asked.

    Raises:
        UsageError: `folder` is no artifact, or the backend does not take what it holds.
        NacdeployError: a file is damaged, or `out` cannot be written.
    """
    manifest, _ = artifact.load(folder)
    found = models(folder, manifest, served, name)
    with records.new_directory(out) as place:
        for model in found:
            _write(model, place / model.name, served)
    return tuple(model.name for model in found)


def _write(model: Model, place: Path, served: Served) -> None:
    (place / VERSION).mkdir(parents=True)
    (place / "config.pbtxt").write_text(config(model, served), encoding="utf-8")
    if model.labels:
        lines = (" ".join(label.split()) or "-" for label in model.labels)
        (place / LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for name, content in model.files.items():
        file = place / VERSION / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def models(folder: Path, manifest: Manifest, served: Served, name: str = "") -> list[Model]:
    """Return the models of an artifact, the first to be asked.

    Raises:
        UsageError: the backend does not take what the artifact holds.
    """
    name = named(name or str(manifest.model.get("name", "")))
    cascade = manifest.cascade
    if cascade is None or cascade.form == "whole":
        found = [_whole(folder, manifest, served, name)]
    else:
        parts = list(_segments(folder, manifest, cascade, served, name))
        found = [_gated(manifest, parts, name), *parts]
    return [*found, *_of_pixels(folder, manifest, served, found[0])]


def _of_pixels(folder: Path, manifest: Manifest, served: Served, network: Model) -> list[Model]:
    """Return a model that prepares pixels, and one that does that and asks the network; nothing where the artifact has
    no graph for it, or is served by TensorRT's backend alone."""
    if not manifest.preprocess_file or served.backend == TENSORRT or manifest.preprocessing is None:
        return []
    given = TensorInfo(preprocess.PIXELS, ("batch", "height", "width", manifest.preprocessing.channels), "uint8")
    kind = ONNX_RUNTIME if served.backend == ONNX_RUNTIME else PYTHON
    prepares = Model(f"{network.name}_preprocess", (given,), network.inputs, kind, {})
    part = SegmentFile(manifest.preprocess_file, ())
    prepared = _onnx(folder, manifest, part, replace(served, backend=kind), prepares)
    ready = network.inputs[0].name
    steps = (
        Step(prepared.name, {given.name: given.name}, {ready: ready}),
        Step(network.name, {ready: ready}, {each.name: each.name for each in network.outputs}),
    )
    name, outputs = f"{network.name}_from_pixels", network.outputs
    whole = Model(name, (given,), outputs, "", {}, labels=network.labels, warms_up=False, steps=steps)
    return [prepared, whole]


def _whole(folder: Path, manifest: Manifest, served: Served, name: str) -> Model:
    """Return the model of a whole graph."""
    part = SegmentFile(manifest.model_file, (), engines=manifest.engines, builds=manifest.builds)
    labels = _labels(manifest)
    return _graph(folder, manifest, part, served, Model(name, manifest.inputs, manifest.outputs, "", {}, labels=labels))


def _segments(folder: Path, manifest: Manifest, cascade: CascadeFiles, served: Served, name: str) -> Iterator[Model]:
    known = {each.name: each for each in manifest.outputs}
    inputs = manifest.inputs
    for at, part in enumerate(cascade.segments):
        passed = part.passes
        carried = (TensorInfo(passed.tensor, ("batch", *passed.shape), passed.dtype),) if passed else ()
        outputs = (*(known[output] for output in part.outputs if output in known), *carried)
        yield _graph(folder, manifest, part, served, Model(f"{name}_segment_{at}", inputs, outputs, "", {}))
        inputs = carried


def _gated(manifest: Manifest, parts: Sequence[Model], name: str) -> Model:
    """Return the model that asks the segments, and lets samples leave."""
    gate, own = manifest.gate, manifest.outputs[0]
    assert gate is not None
    rule = gate.confidence or gate_of(manifest.metric)
    if rule not in RULES:
        raise UsageError(
            f"the gate rates outputs by the metric's own rule, which no server has; "
            f"export again with export.gate = {', '.join(RULES)}"
        )
    asked = [
        {"model": part.name, "input": part.inputs[0].name, "outputs": [each.name for each in part.outputs]}
        for part in parts
    ]
    told = {
        "segments": json.dumps(asked),
        "thresholds": json.dumps(gate.thresholds),
        "confidence": rule,
        "exit_output": EXIT,
    }
    files = {
        "model.py": _source(_BACKEND, "cascaded.py"),
        **_served("batching.py"),
        "served/cascade.py": _source(_CASCADES, "cascade.py"),
        "served/confidence.py": _source(_CASCADES, "confidence.py"),
    }
    outputs = (own, TensorInfo(EXIT, ("batch",), "int64"))
    return Model(
        name, manifest.inputs, outputs, PYTHON, files, labels=_labels(manifest), parameters=told, warms_up=False
    )


def _graph(folder: Path, manifest: Manifest, part: SegmentFile, served: Served, model: Model) -> Model:
    """Return a model with the files of its graph."""
    made = {"tensorrt": _plans, "openvino": _ir}.get(served.backend, _onnx)
    return made(folder, manifest, part, served, model)


def _onnx(folder: Path, manifest: Manifest, part: SegmentFile, served: Served, model: Model) -> Model:
    ir = {} if part.model_file == manifest.preprocess_file else _ir_files(folder, manifest, part)
    if served.backend == PYTHON and ir:
        files, file = ir, "model.xml"
    else:
        files, file = {_ONNX: (folder / part.model_file).read_bytes()}, _ONNX
    if served.backend == PYTHON:
        files = {**files, "model.py": _source(_BACKEND, "plain.py"), **_served("batching.py", "runtimes.py")}
    return replace(model, backend=served.backend, files=files, file=file)


def _ir(folder: Path, manifest: Manifest, part: SegmentFile, served: Served, model: Model) -> Model:
    files = _ir_files(folder, manifest, part)
    if not files:
        raise UsageError("Triton's openvino backend takes OpenVINO's IR, and this artifact has none (target openvino)")
    return replace(model, backend=OPENVINO, files=files, file="model.xml")


def _plans(folder: Path, manifest: Manifest, part: SegmentFile, served: Served, model: Model) -> Model:
    """Return a model with its engines; of several the server takes that of its GPU."""
    if not part.engines:
        raise UsageError(f"Triton's tensorrt backend takes engines, and this artifact for {manifest.target} has none")
    if not (manifest.builder or "").startswith("tensorrt "):
        raise UsageError(
            f"Triton's tensorrt backend loads engines of TensorRT itself, and these are from {manifest.builder}: "
            "export where TensorRT and the GPU are, or serve the ONNX file (triton:onnxruntime)"
        )
    files = {f"{capability.lower()}.plan": (folder / name).read_bytes() for capability, name in part.engines.items()}
    by_capability = {_version(capability): f"{capability.lower()}.plan" for capability in part.engines}
    if any(record.get("io_type") == "fp16" for record in part.builds.values()):  # the ONNX file stays in FP32
        model = replace(model, inputs=_in_fp16(model.inputs), outputs=_in_fp16(model.outputs))
    return replace(model, backend=TENSORRT, files=files, by_capability=by_capability)


def _in_fp16(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    return tuple(replace(each, dtype="float16") if each.dtype == "float32" else each for each in tensors)


def _ir_files(folder: Path, manifest: Manifest, part: SegmentFile) -> dict[str, bytes]:
    """Return OpenVINO's files of a graph, by their names; none where the artifact is for another target."""
    place = folder / PurePosixPath(part.model_file).parent
    names = ("model.xml", "model.bin")
    if not all((place / name).is_file() for name in names) or manifest.target != "openvino":
        return {}
    return {name: (place / name).read_bytes() for name in names}


def _version(capability: str) -> str:
    """Return a compute capability as Triton spells it.

    >>> _version("SM86"), _version("SM120")
    ('8.6', '12.0')
    """
    digits = capability.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _labels(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the classes, where the first output has one number for each."""
    own = manifest.outputs[0].shape
    fits = len(own) == 2 and own[1] == len(manifest.class_names)
    return manifest.class_names if fits else ()


def _served(*names: str) -> dict[str, bytes]:
    return {"served/__init__.py": b"", **{f"served/{name}": _source(_BACKEND, name) for name in names}}


def _source(package: str, name: str) -> bytes:
    return (resources.files(package) / name).read_bytes()
