"""The plain ONNX file, for any runtime: checked in ONNX Runtime, tuned for none."""

from nacdeploy.base.precision import Grid
from nacdeploy.exporters.targets import Target

TARGETS = (
    Target(
        name="onnx",
        title="ONNX",
        runtime=f"{__name__}.runtime:RUNTIME",
        grids=(Grid("onnx", 8, ()),),
        timed_by_onnx_runtime=True,
        exit_forms=("segments", "if"),
        works_as="an ONNX file, checked in ONNX Runtime",
    ),
)
