"""ONNX Runtime on the CPU: the target whose kernels also check, explain and time the ONNX file of every other."""

from nacdeploy.base.precision import Grid
from nacdeploy.exporters.targets import Target

TARGETS = (
    Target(
        name="ort",
        title="ONNX Runtime",
        runtime=f"{__name__}.runtime:RUNTIME",
        grids=(
            Grid("ort", 7, ("conv",), integer_biases=True),
            Grid("ort-8bit", 8, ("conv",), integer_biases=True),
            Grid("ort-signed", 7, (), integer_biases=True),
            Grid("ort-signed-8bit", 8, (), integer_biases=True),
        ),
        optimizations=("all", "disabled"),
        timed_by_onnx_runtime=True,
        exit_forms=("segments", "if"),
    ),
)
