"""The functions of a target on this machine: one record of functions in each target's `runtime.py`."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Subject
from nacdeploy.base.progress import Say
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.targets.ort.runner import Given, OnnxRunner
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.deployment import ExportTable


class Runner(Protocol):
    """A loaded model that answers images (N, C, H, W), or several inputs by name, with all its outputs, and hands the
    same call to the clock.

    >>> import numpy as np
    >>> runner: Runner = OnnxRunner(Path("runs/export-ort-1/model.onnx"))
    >>> image = np.zeros((1, 1, 8, 8), dtype=np.float32)
    >>> runner.run(image)[0].shape
    (1, 10)
    >>> outputs = runner.subject(image).run()
    """

    output_names: tuple[str, ...]

    def run(self, images: Given) -> list[NDArray[Any]]: ...
    def subject(self, images: Given) -> Subject: ...


Maker = Callable[[bytes], Runner]
"""Makes a runner of a serialised ONNX model."""


class Opener(Protocol):
    """A `Maker` that also takes a number of threads.

    >>> opener: Opener = OnnxRunner
    >>> opener(Path("runs/export-ort-1/model.onnx").read_bytes(), threads=1).output_names[0]
    'logits'
    """

    def __call__(self, model: bytes, *, threads: int = 1) -> Runner: ...


@dataclass(frozen=True)
class Picked:
    """A runner, the runtime that it stands for, and a caution for readers of its times ("" for none)."""

    runner: Runner
    runtime: str
    note: str = ""


@dataclass(frozen=True)
class Source:
    """The source of a target's builds.

    Attributes:
        graph: the serialised ONNX model, which agrees with the network, or a segment of it.
        rows: the fate of each layer in the graph.
        network: the network that simulates the graph.
        table: the export settings.
        seed: the seed of the run.
        agrees: says in words how a build agrees with the network; raises NacdeployError if the agreement is below the
            settings' bounds.
        log: takes a line after each build.
        inputs: the inputs of the graph and their shapes without the batch, if they are not the network's.
    """

    graph: bytes
    rows: Sequence[Lowering]
    network: Network
    table: ExportTable
    seed: int
    agrees: Callable[[str, Runner], str]
    log: Say
    inputs: Mapping[str, tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        builder: the builder with its version.
        files: the content of files by name.
        engines: the file of an engine by compute capability.
        builds: the record of an engine's build by compute capability.
        notes: lines for the manifest.
    """

    builder: str
    files: dict[str, bytes]
    engines: dict[str, str] = field(default_factory=dict)
    builds: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """An engine and its second build: equal in bytes, or in the program (except the numbers of internal tensors)."""

    capability: str
    bytes_equal: bool
    program_equal: bool
    said: str


@dataclass(frozen=True)
class Runtime:
    """The functions of a target here. A target cannot do what is left out: ONNX Runtime stands in, or nothing is built.

    Attributes:
        version: the runtime by name and version; raises MissingExtraError if it is not installed.
        open: makes a runner of an ONNX model, on every machine with the runtime. Parity asks it first, bench times it.
        timed: makes a function from ONNX models to runners for timing, with so many threads; None if that cannot be
            here. Without `timed`, `open` is used.
        missing: why the target cannot be timed here ("" if it can).
        picked: the runner of an artifact of this target, with so many threads. Without it `open` reads the ONNX file.
        on_gpu: the runner of any artifact on the target's GPU, with or without CUDA graphs.
        check: refuses early what `build` would refuse late.
        n_builds: the number of lines that `build` will log.
        build: builds from the graph.
        rebuilt: by name, a comparison of each built file with a second build (raises if that cannot be).
        repeats: by builder, how far second builds were measured to repeat.
        computed: the types in which ONNX nodes are computed, as far as an artifact can be read.
        best_grid: the name of the grid with which this machine is fastest and exact, measured.
        multiples: the channels of one unit that pay here by precision ("float32", "int8"), measured.
    """

    version: Callable[[], str]
    open: Opener | None = None
    timed: Callable[[ExportTable, int], Maker | None] | None = None
    missing: Callable[[ExportTable], str] = lambda table: ""
    picked: Callable[[Path, Manifest, int], Picked] | None = None
    on_gpu: Callable[[Path, Manifest, bool], Picked] | None = None
    check: Callable[[ExportTable], None] = lambda table: None
    n_builds: Callable[[ExportTable], int] = lambda table: 0
    build: Callable[[Source], Built] | None = None
    rebuilt: Callable[[Path, Manifest], Mapping[str, Callable[[], Comparison]]] = lambda folder, manifest: {}
    repeats: Callable[[Manifest], Mapping[str, str]] = lambda manifest: {}
    computed: Callable[[Path, Manifest], dict[str, str]] = lambda folder, manifest: {}
    best_grid: Callable[[], str] | None = None
    multiples: Callable[[], Mapping[str, int]] | None = None

    def maker(self, table: ExportTable, threads: int) -> Maker | None:
        """Return a maker of runners for timing ONNX models as on the target, or None if that cannot be here."""
        if self.timed is not None:
            return self.timed(table, threads)
        return None if self.open is None else partial(self.open, threads=threads)


def runtime_of(target: Target) -> Runtime:
    """Return the functions of a target.

    Raises:
        NacdeployError: the target's code does not load.
    """
    try:
        found: Runtime = pkgutil.resolve_name(target.runtime)
    except (ImportError, AttributeError, ValueError) as error:
        raise NacdeployError(f"target '{target.name}' does not load: {' '.join(str(error).split())}") from error
    return found


def answering(target: Target) -> dict[str, Maker]:
    """Return the makers of runners that must agree with the torch model, by name; the first counts.

    They are the target itself if it runs on every CPU, and ONNX Runtime under each graph optimisation.
    """
    opener = runtime_of(target).open
    own: dict[str, Maker] = {} if opener is None else {target.name: opener}
    return own | {level: partial(OnnxRunner, optimization=level) for level in target.optimizations}
