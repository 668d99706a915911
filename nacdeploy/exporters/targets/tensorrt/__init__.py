"""TensorRT engines: by TensorRT itself where it is here (trt), or ahead of time by TensorRT-RTX (trt, trt-rtx)."""

from nacdeploy.base.precision import Grid
from nacdeploy.exporters.targets import Package, Target
from nacdeploy.exporters.targets.tensorrt import doctor

# The integers and units of tensor cores: 32 channels for INT8, 8 for FP16 (NVIDIA/TensorRT#1310).
GRID = Grid("trt", 8, (), fuses_outputs=True)
UNIT_INT8, UNIT_FLOAT = 32, 8
NO_GPU = "no GPU here: times are ONNX Runtime's on this CPU, and say nothing about an engine's"

TARGETS = (
    Target(
        name="trt",
        title="TensorRT",
        runtime=f"{__name__}.runtime:FIRST_HERE",
        grids=(GRID,),
        unit_int8=UNIT_INT8,
        unit_float=UNIT_FLOAT,
        on_gpu=True,
        takes_fp16=True,
        packages=(Package("tensorrt", ("tensorrt",), "target trt, built on the GPU itself", "trt"),),
        doctor=doctor.first_here,
        note_on_times=NO_GPU,
    ),
    Target(
        name="trt-rtx",
        title="TensorRT-RTX",
        runtime=f"{__name__}.runtime:AHEAD",
        grids=(GRID,),
        unit_int8=UNIT_INT8,
        unit_float=UNIT_FLOAT,
        on_gpu=True,
        takes_fp16=True,
        packages=doctor.RTX_PACKAGES,
        doctor=doctor.ahead,
        note_on_times=NO_GPU,
    ),
)
