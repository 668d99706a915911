"""The grids with which OpenVINO's kernels on this CPU are exact."""

from functools import cache

from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.probe import Kind, is_exact
from nacdeploy.exporters.targets.ort.probe_models import Signs


@cache
def weight_bits() -> int:
    """Return the weight width with which the kernels here are exact: 8, or 7 if pairs of products saturate."""
    worst: dict[Kind, Signs] = {"conv": "unsigned", "linear": "signed"}
    return 8 if all(is_exact(kind, signs, 8, OpenVinoRunner) for kind, signs in worst.items()) else 7


def best_grid() -> str:
    """Return the name of the widest grid that is exact here."""
    return "openvino-8bit" if weight_bits() == 8 else "openvino"
