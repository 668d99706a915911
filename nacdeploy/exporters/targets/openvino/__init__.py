"""OpenVINO on the CPU, from its own IR of the graph."""

from nacdeploy.base.precision import Grid
from nacdeploy.exporters.targets import Example, Package, Target

IR_FILES = ("model.xml", "model.bin")
EXAMPLE = Example(
    ("openvino",),
    """
import openvino

model = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
outputs = {each.get_any_name(): values for each, values in model(inputs).items()}
""",
)

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
        exit_forms=("segments",),
        packages=(Package("openvino", ("openvino",), "target openvino", "openvino"),),
        example=EXAMPLE,
        note_on_times="times are ONNX Runtime's; OpenVINO has kernels of its own, and 'nacdeploy bench' times those",
    ),
)
