"""What OpenVINO's kernels on this CPU are exact with."""

from functools import cache

from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.probe import Kind, is_exact
from nacdeploy.exporters.targets.ort.probe_models import Signs


@cache
def weight_bits() -> int:
    """The weight width that the kernels here are exact with: 8, or 7 where pairs of products saturate."""
    worst: dict[Kind, Signs] = {"conv": "unsigned", "linear": "signed"}
    return 8 if all(is_exact(kind, signs, 8, OpenVinoRunner) for kind, signs in worst.items()) else 7


def best_grid() -> str:
    """The name of the widest grid that is exact here."""
    return "openvino-8bit" if weight_bits() == 8 else "openvino"
