"""The targets: the integers and channels that each wants, and the code that builds, runs and times it.

`parse` turns a text ("trt") into a `Target` at the door; from there on the object is passed, and no room asks which
target it is. To add one: its own folder here and one line of FOLDERS, or, in another package, an entry point of the
group `nacdeploy.targets` whose name is the target's and whose object is a `Target`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Literal

from nacdeploy.base import plugins
from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.base.precision import Grid

Optimization = Literal["all", "basic", "disabled"]

GROUP = "nacdeploy.targets"
# Targets by name, and the folder that holds each: it is imported when it is asked for.
FOLDERS = {
    "onnx": "onnx",
    "ort": "ort",
    "openvino": "openvino",
    "trt": "tensorrt",
    "trt-rtx": "tensorrt",
    "torch-trt": "torch_trt",
}
REFERENCE = "ort"  # where the float network is exported for a baseline


@dataclass(frozen=True)
class Package:
    """A package that a target needs.

    Attributes:
        module: the name to import.
        distributions: the distributions that bring the module.
        purpose: the use of the package.
        extra: the extra of nacdeploy that installs it; None if it comes with nacdeploy, or with the target's package.
    """

    module: str
    distributions: tuple[str, ...]
    purpose: str
    extra: str | None = None


@dataclass(frozen=True)
class Example:
    """The way to run an artifact without nacdeploy, for its README.

    Attributes:
        needs: the packages, as pip names them.
        code: lines of Python that make `outputs`, arrays by name, of `inputs`, arrays by name. `folder` is the
            artifact's, and `manifest` its manifest as plain data.
    """

    needs: tuple[str, ...]
    code: str


IN_ONNX_RUNTIME = Example(
    ("onnxruntime",),
    """
import onnxruntime

model = str(folder / manifest["model_file"])
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs)))
""",
)


@dataclass(frozen=True)
class Target:
    """One target of `export`: the facts before anything heavy is imported.

    Attributes:
        name: the name for users.
        title: its runtime in words, such as "OpenVINO".
        runtime: the place of its `runtime.Runtime`, as "package.module:name"; imported on first use.
        grids: the integers that its kernels take; the grid that every machine computes exactly comes first.
        unit_int8: the channels of one unit of its kernels in a quantized network.
        unit_float: the channels of one unit in a float network.
        on_gpu: whether its kernels run on an NVIDIA GPU.
        takes_fp16: whether inputs and outputs may be in FP16.
        optimizations: the graph optimisations under which ONNX Runtime must answer as the torch model; the first
            counts. A runtime that never uses ONNX Runtime's own fusions is not judged by them ("basic").
        files: the deployed files, if they are not the ONNX file.
        packages: the packages that must be installed.
        timed_by_onnx_runtime: whether ONNX Runtime's times of single layers are the target's times.
        times_instead: the target to name if times are needed that nothing here can measure on this one.
        works_as: the line of `doctor` if its packages are installed; without one, its title on the CPU.
        doctor: tells whether the target works beside these GPUs, and why (not), if that takes more than its packages.
        note_on_times: the reader's caution about ONNX Runtime's times by layer.
        exit_forms: the forms besides one whole graph in which its runtime takes a network with exits: "segments", each
            a graph of its own, and "if", one graph with branches.
        example: how an artifact is run without nacdeploy; by default its ONNX file in ONNX Runtime.
    """

    name: str
    title: str
    runtime: str
    grids: tuple[Grid, ...]
    unit_int8: int = 8
    unit_float: int = 8
    on_gpu: bool = False
    takes_fp16: bool = False
    optimizations: tuple[Optimization, ...] = ("basic", "disabled")
    files: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    timed_by_onnx_runtime: bool = False
    times_instead: str = ""
    works_as: str = ""
    doctor: Callable[[tuple[str, ...]], tuple[bool, str]] | None = None
    note_on_times: str = ""
    exit_forms: tuple[Literal["segments", "if"], ...] = ()
    example: Example = IN_ONNX_RUNTIME

    def grid(self, asked: str) -> Grid:
        """Return the target's grid of this name, or the grid that every machine computes exactly."""
        return next((grid for grid in self.grids if grid.name == asked), self.grids[0])

    def multiple(self, is_quantized: bool = True) -> int:
        """Return the channels of one unit, if they are not measured."""
        return self.unit_int8 if is_quantized else self.unit_float

    def check_io(self, io_type: str) -> None:
        """Refuse inputs and outputs of a type that the target does not take.

        Raises:
            UsageError: FP16 for a runtime on the CPU.
        """
        if io_type == "fp16" and not self.takes_fp16:
            takers = ", ".join(f"'{target.name}'" for target in every() if target.takes_fp16)
            raise UsageError(
                f"export.io_type = 'fp16' is for {takers}; target '{self.name}' takes and gives FP32: leave the key out"
            )


def parse(text: str) -> Target:
    """Return the target of a name.

    Raises:
        UsageError: there is none, or its package does not load.
    """
    if text in FOLDERS:
        return _own(text)
    found, problems = _others()
    if text in found:
        return found[text]
    error = unknown("target", text, names())
    raise UsageError("; ".join((str(error), *problems))) if problems else error


def names() -> tuple[str, ...]:
    """Return the names of all targets, including those of other packages."""
    return (*FOLDERS, *_others()[0])


def every() -> Iterator[Target]:
    """Yield all targets, including those of other packages."""
    yield from map(_own, FOLDERS)
    yield from _others()[0].values()


def problems() -> tuple[str, ...]:
    """Describe the entry points that give no target, each with its package and the reason."""
    return tuple(_others()[1])


def grid_names() -> tuple[str, ...]:
    """Return the names of all targets' grids."""
    return tuple(grid.name for target in every() for grid in target.grids)


def grid_named(name: str) -> Grid:
    """Return the grid of a name.

    Raises:
        UsageError: no target has it.
    """
    for target in every():
        if name in [grid.name for grid in target.grids]:
            return target.grid(name)
    raise unknown("grid", name, dict.fromkeys(grid_names()))


def _own(name: str) -> Target:
    targets: tuple[Target, ...] = import_module(f"{__name__}.{FOLDERS[name]}").TARGETS
    return next(target for target in targets if target.name == name)


def _others() -> tuple[dict[str, Target], list[str]]:
    """Return the targets of other packages by name, and the problems of those left out."""
    found: dict[str, Target] = {}
    problems: list[str] = []
    entries = plugins.entries(GROUP)
    grids = {grid.name: grid for name in FOLDERS if entries for grid in _own(name).grids}
    for entry in entries:
        try:
            if entry.name in FOLDERS or entry.name in found:
                raise UsageError("the name is taken")
            target = _checked(plugins.load(entry), entry, grids)
        except UsageError as error:
            problems.append(f"{plugins.called('target', entry)} is left out: {error}")
            continue
        found[entry.name] = target
        grids |= {grid.name: grid for grid in target.grids}
    return found, problems


def _checked(target: object, entry: EntryPoint, grids: dict[str, Grid]) -> Target:
    """Return the target of an entry point if it may stand beside the others."""
    if not isinstance(target, Target) or target.name != entry.name:
        raise UsageError(f"{entry.value} is no Target of this name")
    for grid in target.grids:
        if grids.get(grid.name, grid) != grid:
            raise UsageError(f"its grid '{grid.name}' is another target's, with other integers")
    return target
