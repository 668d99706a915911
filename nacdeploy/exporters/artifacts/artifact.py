"""Artifact: the folder that is deployed. Model file(s), `manifest.json` (content, making, hashes), `lowering.json`, and
`indices.json` (long lists of the manifest's steps).

The hashes in the manifest cover every other file of the folder, so that a damaged copy is found before it runs.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from math import prod
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors, own
from nacdeploy.base.scores import SCHEMAS
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import cascade_files, indices
from nacdeploy.exporters.artifacts.cascade_files import CascadeFiles
from nacdeploy.exporters.artifacts.indices import INDICES
from nacdeploy.metrics import DEFAULT, Metric, named
from nacdeploy.models.ports import Ports
from nacdeploy.profile.tables.deployment import BenchTable
from nacdeploy.profile.tables.training import DataTable
from nacdeploy.strategies.steps.checkpoint import StepRecord

MODEL_FILE = "model.onnx"
MANIFEST, LOWERING, PRECISION, README = "manifest.json", "lowering.json", "precision.json", "README.md"

_DISTRIBUTIONS = ("nacdeploy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class TensorInfo:
    """One input or output; a dimension that is not fixed has a name, such as "batch"."""

    name: str
    shape: tuple[Annotated[int, Field(ge=1)] | str, ...]
    dtype: str


@dataclass(frozen=True)
class Preprocessing:
    """From 8-bit pixels to the input tensor: `(pixel * scale - mean) / std`, per channel.

    Colours are in `channel_order`, and grey pixels are repeated to make three channels. Of files with more than 8
    `bits` in use the upper 8 are taken:
    `pixel >> (bits - 8)`. Before that an image gets its size: it is squashed to height and width; or, if `resize` is
    given, its shorter side gets that length (by `interpolation`, antialiased). If `crop` is given, the middle square of
    that side is kept.
    """

    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    channels: Annotated[int, Field(ge=1)]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    scale: Annotated[float, Field(gt=0)] = 1 / 255
    layout: Literal["NCHW"] = "NCHW"
    bits: Annotated[int, Field(ge=8, le=16)] = 8
    resize: Annotated[int, Field(ge=1)] | None = None
    crop: Annotated[int, Field(ge=1)] | None = None
    interpolation: str = "bilinear"
    channel_order: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True)
class Lowering:
    """The fate of one layer of the network, read from the built graph.

    Attributes:
        layer: the torch module path.
        kind: the type of the layer ("conv", "linear").
        asked: the precision that the chain asked for ("w8a8").
        held: the precision that the graph holds ("int8", "float32", "float16").
        reason: why the two differ; "" if they agree.
        node: the name of the ONNX node.
        zero_fraction: the fraction of zeros of the weight in the graph.
        is_two_four: whether at most 2 of 4 consecutive input channels of that weight are not zero.
    """

    layer: str
    kind: str
    asked: str
    held: str
    reason: str
    node: str
    zero_fraction: float = 0.0
    is_two_four: bool = False


@dataclass(frozen=True)
class Parity:
    """Agreement of the built graph with the torch model on real images.

    `agreement` is the fraction of equal answers, `snr_db` the signal to noise ratio of the logits (None: equal bit for
    bit), `optimization` the graph optimisation of ONNX Runtime's session ("all", "basic", "disabled"), or the target
    whose own runtime answered ("openvino").
    """

    n_images: int
    agreement: float
    snr_db: float | None
    optimization: str


@dataclass(frozen=True)
class Exit:
    """One exit of a gate: its output, the place in the network, and the confidence from which it answers (2: never)."""

    output: str
    place: str
    threshold: float


@dataclass(frozen=True)
class Gate:
    """The rule that picks one of several outputs as the answer.

    `confidence` is the rule of `cascades.confidence` that rates outputs; "" is the metric's own.
    """

    rule: str = "take the first exit whose softmax maximum reaches its threshold"
    exits: tuple[Exit, ...] = ()
    confidence: str = ""

    @property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(each.threshold for each in self.exits)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """The data set that the network was trained and measured on: its name, and the choice of its images."""

    name: str
    fingerprint: str = ""
    split_seed: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: Literal["rgb", "bgr"] = "rgb"
    value_range: Literal["0..1", "0..255"] = "0..1"
    images: DataTable
    bench: BenchTable = field(default_factory=BenchTable)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of an artifact, and how it was made. `write` fills `files`, `created` and `versions`.

    Attributes:
        preprocessing: the way from pixels to the input; None for a task of the user's own, which prepares inputs.
        preprocess_file: the same as an ONNX graph, from `pixels` uint8 (N, H, W, C); "" where there is none.
        ports: the inputs and outputs of such a task's network.
        steps: the decisions and their letters, as typed records.
        parity: the check that counts.
        checks: all checks, with and without graph optimisation.
        original: the agreement with the float network at the chain's start; None if that network is gone.
        worst_step: the largest distance of any quantized layer from the simulation, in steps of its output grid.
        engines: files by compute capability.
        builds: the records of the engines' builds (`trt_build.BuildRecord`) by compute capability.
        cascade: the files that save time by exits; None where there are none.
        license: of the weights, as the profile says or a library of its own weights; "" if unknown.
        whole_file: the file in the place of the ONNX file that the network came from, if that has more.
        whole_db: the least ratio of signal to noise of its outputs against that file's, in decibels.
        kept: the nodes of that file that stay as they are, each with the reason.
        files: sha256 by file name.
    """

    target: str
    model_file: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    preprocessing: Preprocessing | None = None
    preprocess_file: str = ""
    ports: Ports | None = None
    class_names: tuple[str, ...] = ()
    chain: str = ""
    steps: tuple[StepRecord, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    parity: Parity | None = None
    checks: tuple[Parity, ...] = ()
    original: Parity | None = None
    worst_step: int | None = None
    gate: Gate | None = None
    cascade: CascadeFiles | None = None
    engines: dict[str, str] = field(default_factory=dict)
    builder: str | None = None
    builds: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    data: DataSource | None = None
    license: str = ""
    whole_file: str = ""
    whole_db: float | None = None
    kept: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    schema: int = records.SCHEMA_VERSION

    @property
    def metric(self) -> Metric:
        """The metric of the answers.

        Raises:
            UsageError: this version has no metric of that name.
        """
        return named(self.metrics.get("metric", DEFAULT))


def identity(manifest: Manifest) -> str:
    """Return what tells an artifact from all others, wherever it lies: its files and its gate, in hex."""
    return records.sha256_data({"files": manifest.files, "gate": records.to_data(manifest.gate)})


def write(out: Path, files: Mapping[str, bytes], manifest: Manifest, lowering: Sequence[Lowering]) -> Path:
    """Write an artifact folder, whole or not at all, and return its path.

    Raises:
        NacdeployError: `out` exists and holds something, or cannot be written.
    """
    with records.new_directory(out) as folder:
        for name, content in files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        records.write_json(folder / LOWERING, [records.to_data(row) for row in lowering])
        steps, lists = indices.moved(records.to_data(manifest)["steps"])
        if lists:
            records.write_text(folder / INDICES, indices.text(lists))
        more = (INDICES,) if lists else ()
        hashes = {name: records.sha256_file(folder / name) for name in (*files, LOWERING, *more)}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        whole = records.to_data(replace(manifest, files=hashes, created=created, versions=versions()))
        records.write_json(folder / MANIFEST, {**whole, "steps": steps})
    return out


def load(path: Path) -> tuple[Manifest, tuple[Lowering, ...]]:
    """Read an artifact and check every file against its hash.

    Raises:
        UsageError: `path` is no artifact, or an artifact of a schema that this version does not read.
        NacdeployError: a file is missing or damaged; the message names it.
    """
    if not is_artifact(path):
        raise UsageError(f"{path} is not an artifact: it has no {MANIFEST}; 'nacdeploy export' writes artifacts")
    data = records.read_json(path / MANIFEST)
    _check_schema(data, path)
    manifest = records.from_data(Manifest, _with_indices(_with_height(data), path), where=str(path / MANIFEST))
    _check_images(manifest, str(path / MANIFEST))
    for name in (manifest.model_file, LOWERING, *manifest.engines.values()):
        if name not in manifest.files:
            raise UsageError(f"{path / MANIFEST} has no hash of '{name}'; export the artifact again")
    if manifest.preprocess_file and manifest.preprocess_file not in manifest.files:
        raise UsageError(f"{path / MANIFEST} has no hash of '{manifest.preprocess_file[:200]}'; export it again")
    n_exits = len(manifest.gate.exits) if manifest.gate else 0
    cascade_files.check(manifest.cascade, n_exits, manifest.files, str(path / MANIFEST))
    for name, expected in manifest.files.items():
        _check_file(path, name, expected)
    rows = records.from_data(tuple[Lowering, ...], records.read_json(path / LOWERING), where=str(path / LOWERING))
    return manifest, rows


def is_artifact(path: Path) -> bool:
    """Tell whether `path` is a folder with a manifest."""
    return records.is_file(path / MANIFEST)


def size_bytes(path: Path, manifest: Manifest) -> int:
    """Return the size of the deployed files: the graph, or the files that the target takes instead; those of all
    segments, where these run."""
    cascade, files = manifest.cascade, targets.parse(manifest.target).files
    if cascade is not None and cascade.form == "if":
        return (path / cascade.if_file).stat().st_size
    if cascade is not None and cascade.form == "segments":
        return sum((path / name).stat().st_size for part in cascade.segments for name in part.deployed(files))
    deployed = files or (manifest.model_file,)
    return sum((path / name).stat().st_size for name in deployed)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape an artifact, without importing any of them."""
    found = {"python": platform.python_version()}
    theirs = (name for target in targets.every() for package in target.packages for name in package.distributions)
    for name in (*_DISTRIBUTIONS, *theirs):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _with_height(data: dict[str, Any]) -> dict[str, Any]:
    """Complete an old manifest: its `input_size` is the height alone, the input's shape has height and width."""
    given, inputs = data.get("preprocessing"), data.get("inputs")
    if not isinstance(given, dict) or "input_size" not in given or not inputs:
        return data
    height, width = inputs[0]["shape"][2:]
    kept = {key: value for key, value in given.items() if key != "input_size"}
    return {**data, "preprocessing": {"height": height, "width": width, **kept}}


def _with_indices(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Complete a manifest with the long lists that lie beside it; those of older artifacts stand in it."""
    files = data.get("files")
    if not isinstance(files, dict) or INDICES not in files:
        return data
    _check_file(path, INDICES, files[INDICES])
    lists = records.read_json(path / INDICES)
    return {**data, "steps": indices.restored(data.get("steps"), lists, str(path / MANIFEST))}


def _check_images(manifest: Manifest, where: str) -> None:
    """Check that there is one input, of images in the size that the preprocessing makes."""
    taken = manifest.preprocessing
    if taken is None:
        _check_ports(manifest, where)
        return
    size = (taken.channels, taken.height, taken.width)
    doors.check_pixels(taken.channels * taken.height * taken.width, where, "network_pixels")
    if len(manifest.inputs) != 1 or manifest.inputs[0].shape[1:] != size:
        raise UsageError(f"{where}: the images are {size}, and the inputs {[i.shape for i in manifest.inputs[:3]]}")
    if not all(len(scale) in (1, taken.channels) for scale in (taken.mean, taken.std)):
        raise UsageError(f"{where}: images of {taken.channels} channels, normalised as of {len(taken.mean)}")
    if manifest.model_file in (MANIFEST, LOWERING) or not targets.parse(manifest.target):
        raise UsageError(f"{where}: {manifest.model_file} is no graph")


def _check_ports(manifest: Manifest, where: str) -> None:
    """Check that the inputs and outputs are those of the ports."""
    ports = manifest.ports
    if ports is None:
        raise UsageError(f"{where} says neither how images are prepared nor which inputs the network has")
    doors.check_pixels(prod(ports.input_shape), where, "network_pixels")
    named = [(each.name, each.shape[1:]) for each in (*manifest.inputs, *manifest.outputs)]
    if named != [(port.name, port.shape) for port in (*ports.inputs, *ports.outputs)]:
        raise UsageError(f"{where}: the inputs and outputs are not those of the network's ports")


def _check_schema(data: Any, path: Path) -> None:
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema not in SCHEMAS:
        raise UsageError(
            f"{path / MANIFEST} has schema {schema!r}; this nacdeploy reads {SCHEMAS[-1]}: export it again"
        )


def _check_file(path: Path, name: str, expected: str) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not own.is_inside(path / name, [path]):
        raise UsageError(f"{path / MANIFEST} names '{name[:200]}', which lies outside the artifact")
    if not records.is_file(path / name):
        raise NacdeployError(f"{path / name} is missing; copy the whole artifact again or export it again")
    if records.sha256_file(path / name) != expected:
        raise NacdeployError(f"{path / name} is damaged: its sha256 is not the one in {MANIFEST}; copy it again")
