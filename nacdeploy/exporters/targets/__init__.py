"""The targets: what each is judged on, and how it wants its integers."""

from dataclasses import dataclass
from functools import partial

from nacdeploy.errors import UsageError, unknown
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, Optimization
from nacdeploy.exporters.targets.runtime import Runtime
from nacdeploy.layers.fake_quant import GRIDS, Grid
from nacdeploy.profile import Profile
from nacdeploy.profile.deployment import ExportTable


@dataclass(frozen=True)
class Target:
    """One target of `export`.

    `optimizations` are those under which ONNX Runtime must agree with the torch model, the one that counts first:
    TensorRT and OpenVINO never see ONNX Runtime's own fusions. `builder` names who builds from the graph, "" for none.
    """

    name: str
    optimizations: tuple[Optimization, ...] = ("all", "disabled")
    builder: str = ""


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", ("basic", "disabled")),
        Target("ort"),
        Target("openvino", ("basic", "disabled"), builder="openvino"),
        Target("trt", ("basic", "disabled"), builder="auto"),
        Target("trt-rtx", ("basic", "disabled"), builder="tensorrt_rtx"),
        Target("torch-trt", ("basic", "disabled"), builder="torch_tensorrt"),
    )
}


def named(name: str) -> Target:
    """The target of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    return TARGETS[name]


def check_types(target: Target, table: ExportTable) -> None:
    """Refuse a precision that the target has not.

    Raises:
        UsageError: inputs and outputs in FP16 for a runtime on the CPU.
    """
    if table.io_type == "fp16" and "trt" not in target.name:
        raise UsageError(
            f"export.io_type = 'fp16' is for TensorRT; target '{target.name}' takes and gives FP32: leave the key out"
        )


def runtimes(target: Target) -> dict[str, Runtime]:
    """What must agree with the torch model, by name, the one that counts first: the target itself where it runs on
    every CPU, and ONNX Runtime under each graph optimisation."""
    own: dict[str, Runtime] = {"openvino": OpenVinoRunner} if target.builder == "openvino" else {}
    return own | {level: partial(OnnxRunner, optimization=level) for level in target.optimizations}


def grid(target: Target, profile: Profile) -> Grid:
    """The grid of integers for a target."""
    return GRIDS[profile.grid_for(target.name)]
