"""OpenVINO on the CPU, from its own IR of the graph."""

from nacdeploy.base.precision import Grid
from nacdeploy.exporters.targets import Package, Target

IR_FILES = ("model.xml", "model.bin")

TARGETS = (
    Target(
        name="openvino",
        title="OpenVINO",
        runtime=f"{__name__}.runtime:RUNTIME",
        grids=(
            Grid("openvino", 7, ("conv",), fuses_outputs=True),
            Grid("openvino-8bit", 8, ("conv",), fuses_outputs=True),
        ),
        files=IR_FILES,
        packages=(Package("openvino", ("openvino",), "target openvino", "openvino"),),
        note_on_times="times are ONNX Runtime's; OpenVINO has kernels of its own, and 'nacdeploy bench' times those",
    ),
)
