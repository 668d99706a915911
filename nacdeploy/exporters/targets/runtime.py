"""What a target can do on this machine: one record of functions in each target's `runtime.py`."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Subject
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.deployment import ExportTable

Log = Callable[[str], None]


class Runner(Protocol):
    """A model that runs: images (N, C, H, W) to all outputs, and the same call as what is timed."""

    output_names: tuple[str, ...]

    def run(self, images: NDArray[Any]) -> list[NDArray[Any]]: ...
    def subject(self, images: NDArray[Any]) -> Subject: ...


Maker = Callable[[bytes], Runner]
"""Makes a runner of a serialised ONNX model."""


class Opener(Protocol):
    """A `Maker` that may be told how many threads to take."""

    def __call__(self, model: bytes, *, threads: int = 1) -> Runner: ...


@dataclass(frozen=True)
class Picked:
    """A runner, the runtime that it stands for, and what a reader of its times must know ("" for nothing)."""

    runner: Runner
    runtime: str
    note: str = ""


@dataclass(frozen=True)
class Source:
    """What a target builds from.

    Attributes:
        graph: the serialised ONNX model, which agrees with the network.
        rows: what became of each layer in it.
        network: the network that simulates it.
        table: the export settings.
        seed: that of the run.
        agrees: says in words how something that was built agrees with the network; raises NacdeployError where that is
            less than the settings ask for.
        log: takes a line after each build.
    """

    graph: bytes
    rows: Sequence[Lowering]
    network: Network
    table: ExportTable
    seed: int
    agrees: Callable[[str, Runner], str]
    log: Log


@dataclass(frozen=True)
class Built:
    """What was built: the builder with its version, files by name; of engines the file and the record of the build by
    compute capability; and what to note."""

    builder: str
    files: dict[str, bytes]
    engines: dict[str, str] = field(default_factory=dict)
    builds: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """An engine and its second build: equal in bytes, or in its program (but for the numbers of internal tensors)."""

    capability: str
    bytes_equal: bool
    program_equal: bool
    said: str


@dataclass(frozen=True)
class Runtime:
    """What a target can do here. What is left out it cannot do: ONNX Runtime stands in, or nothing is built.

    Attributes:
        version: the runtime by name and version; raises MissingExtraError where it is not installed.
        open: makes a runner of an ONNX model, on every machine with the runtime. Parity asks it first, bench times it.
        timed: makes what runs ONNX models to be timed, with so many threads; None where that cannot be here.
            Without it `open` does.
        missing: why the target cannot be timed here ("" where it can).
        picked: the runner of an artifact of this target, with so many threads. Without it `open` reads the ONNX file.
        on_gpu: the runner of any artifact on the target's GPU, with or without CUDA graphs.
        check: refuses early what `build` would refuse late.
        n_builds: how many lines `build` will log.
        build: builds from the graph.
        rebuilt: what was built, by name, each with its comparison to a second build (raises where that cannot be).
        repeats: what was measured to repeat in second builds, by builder.
        computed: the types that ONNX nodes are computed in, as far as an artifact can be read.
        best_grid: the name of the grid that this machine is fastest with and computes exactly, measured.
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
        """What runs ONNX models as the target does, to be timed; None where that cannot be here."""
        if self.timed is not None:
            return self.timed(table, threads)
        return None if self.open is None else partial(self.open, threads=threads)


def runtime_of(target: Target) -> Runtime:
    """What a target can do.

    Raises:
        NacdeployError: its code does not load.
    """
    try:
        found: Runtime = pkgutil.resolve_name(target.runtime)
    except (ImportError, AttributeError, ValueError) as error:
        raise NacdeployError(f"target '{target.name}' does not load: {' '.join(str(error).split())}") from error
    return found


def answering(target: Target) -> dict[str, Maker]:
    """What must agree with the torch model, by name, the one that counts first: the target itself where it runs on
    every CPU, and ONNX Runtime under each graph optimisation."""
    opener = runtime_of(target).open
    own: dict[str, Maker] = {} if opener is None else {target.name: opener}
    return own | {level: partial(OnnxRunner, optimization=level) for level in target.optimizations}
