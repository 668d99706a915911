"""A torch program with TensorRT engines inside, compiled by torch-tensorrt on the GPU that will run it."""

from nacdeploy.exporters.targets import Package, Target
from nacdeploy.exporters.targets.tensorrt import GRID, NO_GPU, UNIT_FLOAT, UNIT_INT8
from nacdeploy.exporters.targets.torch_trt import doctor

TARGETS = (
    Target(
        name="torch-trt",
        title="torch-tensorrt",
        runtime=f"{__name__}.runtime:RUNTIME",
        grids=(GRID,),
        unit_int8=UNIT_INT8,
        unit_float=UNIT_FLOAT,
        on_gpu=True,
        takes_fp16=True,
        packages=(Package("torch_tensorrt", ("torch-tensorrt",), "target torch-trt, on the GPU itself", "torch-trt"),),
        times_instead="trt",
        doctor=doctor.said,
        note_on_times=NO_GPU,
    ),
)
