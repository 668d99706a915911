"""The targets: how each wants its integers and channels, and where the code is that builds, runs and times it.

A text ("trt") becomes a `Target` at the door, by `parse`; from there on the object is passed, and nobody asks which
one it is. Adding one: its own folder here and one line of FOLDERS, or, in another package, an entry point of the group
`nacdeploy.targets` whose name is the target's and whose object is a `Target`.
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
    """A package that a target needs: `module` as it is imported, the distributions that bring it, and the extra of
    nacdeploy that installs it (None: it comes with nacdeploy, or with the package of the target)."""

    module: str
    distributions: tuple[str, ...]
    purpose: str
    extra: str | None = None


@dataclass(frozen=True)
class Target:
    """One target of `export`: what is known of it before anything heavy is imported.

    Attributes:
        name: as users write it.
        title: its runtime in words, such as "OpenVINO".
        runtime: where its `runtime.Runtime` is, as "package.module:name"; imported when it is first asked for.
        grids: the integers that its kernels take, the ones that every machine computes exactly first.
        unit_int8: the channels of one unit of its kernels where a network is quantized.
        unit_float: the same in float.
        on_gpu: whether its kernels run on an NVIDIA GPU.
        takes_fp16: whether inputs and outputs may be in FP16.
        optimizations: the graph optimisations under which ONNX Runtime must answer as the torch model, the one that
            counts first. Who never sees ONNX Runtime's own fusions is not judged by them ("basic").
        files: what is deployed, where that is not the ONNX file.
        packages: what must be installed.
        timed_by_onnx_runtime: whether times of single layers in ONNX Runtime are its times.
        times_instead: the target to name where times are needed that nothing here takes of this one.
        works_as: what `doctor` says of it where its packages are here; without, its title on the CPU.
        doctor: says whether it works beside these GPUs, and why (not), where that takes more than its packages.
        note_on_times: what a reader must know of ONNX Runtime's times by layer.
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

    def grid(self, asked: str) -> Grid:
        """The grid of this name if it is one of the target's, else the one that every machine computes exactly."""
        return next((grid for grid in self.grids if grid.name == asked), self.grids[0])

    def multiple(self, is_quantized: bool = True) -> int:
        """The channels of one unit, where they are not measured."""
        return self.unit_int8 if is_quantized else self.unit_float

    def check_io(self, io_type: str) -> None:
        """Refuse inputs and outputs of a type that the target has not.

        Raises:
            UsageError: FP16 for a runtime on the CPU.
        """
        if io_type == "fp16" and not self.takes_fp16:
            takers = ", ".join(f"'{target.name}'" for target in every() if target.takes_fp16)
            raise UsageError(
                f"export.io_type = 'fp16' is for {takers}; target '{self.name}' takes and gives FP32: leave the key out"
            )


def parse(text: str) -> Target:
    """The target of a name.

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
    """All targets by name, those of other packages included."""
    return (*FOLDERS, *_others()[0])


def every() -> Iterator[Target]:
    """All targets, those of other packages included."""
    yield from map(_own, FOLDERS)
    yield from _others()[0].values()


def problems() -> tuple[str, ...]:
    """The entry points that give no target, each with its package and why."""
    return tuple(_others()[1])


def grid_names() -> tuple[str, ...]:
    """The grids of all targets by name."""
    return tuple(grid.name for target in every() for grid in target.grids)


def grid_named(name: str) -> Grid:
    """The grid of a name.

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
    """The targets of other packages by name, and what is wrong with those that are left out."""
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
    """What an entry point names, where it is a target that may stand beside the others."""
    if not isinstance(target, Target) or target.name != entry.name:
        raise UsageError(f"{entry.value} is no Target of this name")
    for grid in target.grids:
        if grids.get(grid.name, grid) != grid:
            raise UsageError(f"its grid '{grid.name}' is another target's, with other integers")
    return target
