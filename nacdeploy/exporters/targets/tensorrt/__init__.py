"""TensorRT engines: by TensorRT itself if it is installed (trt), or ahead of time by TensorRT-RTX (trt, trt-rtx)."""

from nacdeploy.base.precision import Grid
from nacdeploy.exporters.targets import Example, Package, Target
from nacdeploy.exporters.targets.tensorrt import doctor

# The integers and units of tensor cores: 32 channels for INT8, 8 for FP16 (NVIDIA/TensorRT#1310).
GRID = Grid("trt", 8, (), fuses_outputs=True)
UNIT_INT8, UNIT_FLOAT = 32, 8
EXAMPLE = Example(
    ("torch", "and the builder of the engines, in its version"),
    """
import importlib

import torch

trt = importlib.import_module(manifest["builder"].split()[0])  # tensorrt or tensorrt_rtx
engines = manifest["engines"]  # files by compute capability, such as SM86
runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
plan = (folder / engines["SM{}{}".format(*torch.cuda.get_device_capability())]).read_bytes()
engine = runtime.deserialize_cuda_engine(plan)
context = engine.create_execution_context()
names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
types = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.INT32: torch.int32,
    trt.DataType.INT64: torch.int64,
    trt.DataType.BOOL: torch.bool,
}
stream = torch.cuda.Stream()
with torch.cuda.stream(stream):
    held = {}
    for name, values in inputs.items():
        held[name] = torch.from_numpy(values).to("cuda", types[engine.get_tensor_dtype(name)])
        context.set_input_shape(name, tuple(values.shape))
    for name in names:
        if name not in inputs:
            shape, dtype = tuple(context.get_tensor_shape(name)), types[engine.get_tensor_dtype(name)]
            held[name] = torch.empty(shape, dtype=dtype, device="cuda")
        context.set_tensor_address(name, held[name].data_ptr())
    context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
outputs = {name: held[name].float().cpu().numpy() for name in names if name not in inputs}
""",
)
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
        exit_forms=("segments",),
        packages=(Package("tensorrt", ("tensorrt",), "target trt, built on the GPU itself", "trt"),),
        doctor=doctor.first_here,
        note_on_times=NO_GPU,
        example=EXAMPLE,
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
        exit_forms=("segments",),
        packages=doctor.RTX_PACKAGES,
        doctor=doctor.ahead,
        note_on_times=NO_GPU,
        example=EXAMPLE,
    ),
)
