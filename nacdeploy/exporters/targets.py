"""The targets: what each is judged on, and how it wants its integers."""

from dataclasses import dataclass

from nacdeploy.errors import unknown
from nacdeploy.layers.fake_quant import GRIDS, Grid
from nacdeploy.profile import Profile
from nacdeploy.runners.onnx import Optimization


@dataclass(frozen=True)
class Target:
    """One target of `export`.

    `optimizations` are those under which ONNX Runtime must agree with the torch model, the one that counts first:
    TensorRT never sees ONNX Runtime's own fusions. `builder` names who builds engines, "" for none.
    """

    name: str
    optimizations: tuple[Optimization, ...] = ("all", "disabled")
    builder: str = ""


TARGETS = {
    target.name: target
    for target in (
        Target("onnx", ("basic", "disabled")),
        Target("ort"),
        Target("openvino", ("basic", "disabled")),
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


def grid(target: Target, profile: Profile) -> Grid:
    """The grid of integers for a target."""
    return GRIDS[profile.grid_for(target.name)]
