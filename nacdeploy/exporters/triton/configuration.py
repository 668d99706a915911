"""The configuration of one model of a repository: inputs, outputs, batches, instances and warm-up.

Source: Triton's model_config.proto and its documents "Model Configuration" and "Python Backend".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.exporters.artifacts.artifact import TensorInfo
from nacdeploy.exporters.triton.pbtxt import Word, entries, text

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
LABELS = "labels.txt"
PYTHON, ONNX_RUNTIME, OPENVINO, TENSORRT = "python", "onnxruntime", "openvino", "tensorrt"
BACKENDS = (PYTHON, ONNX_RUNTIME, OPENVINO, TENSORRT)
_PLATFORMS = {ONNX_RUNTIME: "onnxruntime_onnx", TENSORRT: "tensorrt_plan"}


@dataclass(frozen=True)
class Served:
    """How every model of a repository is served.

    Attributes:
        backend: what runs a graph: Triton's python (ONNX Runtime or OpenVINO inside, on the CPU), onnxruntime, openvino
            or tensorrt backend.
        max_batch: the largest batch that the server puts together.
        queue_delay_us: how long a request waits for others, in microseconds.
        instances: copies of a model that run at the same time.
        threads: threads of each copy on the CPU.
    """

    backend: str = PYTHON
    max_batch: int = 16
    queue_delay_us: int = 100
    instances: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise unknown("backend of Triton", self.backend, BACKENDS)


@dataclass(frozen=True)
class Step:
    """One model of an ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Model:
    """One model of a repository.

    Attributes:
        name: its name, which is its folder's.
        inputs: its inputs; with a first dimension of any size they take batches.
        outputs: its outputs.
        backend: the backend of this model.
        files: the deployed files by their name in the version's folder.
        file: the file that the backend opens; "" where it is the backend's own choice.
        labels: the names of the classes, for the first output.
        by_capability: engines by compute capability, such as "8.6".
        parameters: further parameters.
        warms_up: whether the server runs it once before it answers.
        steps: of an ensemble, which has no files: the models it runs in turn, each with its inputs and outputs by name
            and the ensemble's tensors that they are.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    backend: str
    files: Mapping[str, bytes]
    file: str = ""
    labels: tuple[str, ...] = ()
    by_capability: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    warms_up: bool = True
    steps: tuple[Step, ...] = ()

    @property
    def takes_batches(self) -> bool:
        """Whether every input and output has a first dimension of any size."""
        return all(each.shape and not isinstance(each.shape[0], int) for each in (*self.inputs, *self.outputs))


def config(model: Model, served: Served) -> str:
    """Return the content of a model's config.pbtxt.

    Raises:
        UsageError: a tensor is of a type that Triton does not know.
    """
    batched = model.takes_batches
    message: dict[str, Any] = {
        "name": model.name,
        **_run_by(model),
        "max_batch_size": served.max_batch if batched else 0,
        "input": [_tensor(each, batched) for each in model.inputs],
        "output": [_output(model, at, batched) for at in range(len(model.outputs))],
        "version_policy": {"latest": {"num_versions": 1}},
    }
    if model.steps:
        for each in (*message["input"], *message["output"]):  # its models have reshaped already
            each.pop("reshape", None)
        return text({**message, "ensemble_scheduling": {"step": [_step(each) for each in model.steps]}})
    message["instance_group"] = [_instances(model, served)]
    if batched:
        message["dynamic_batching"] = {"max_queue_delay_microseconds": served.queue_delay_us}
    if model.warms_up:
        message["model_warmup"] = [_warm_up(model, batched)]
    told = _told(model, served, batched)
    message["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in told.items()]
    return text(message)


def _step(step: Step) -> dict[str, Any]:
    maps = {"input_map": entries(dict(step.inputs)), "output_map": entries(dict(step.outputs))}
    return {"model_name": step.model, "model_version": -1, **maps}


def _run_by(model: Model) -> dict[str, Any]:
    if model.steps:
        return {"platform": "ensemble"}
    platform = _PLATFORMS.get(model.backend)
    named: dict[str, Any] = {"platform": platform} if platform else {}
    named["backend"] = model.backend
    if model.by_capability:
        named["cc_model_filenames"] = entries(dict(model.by_capability))
    elif model.file and model.backend != PYTHON:
        named["default_model_filename"] = model.file
    return named


def _told(model: Model, served: Served, batched: bool) -> dict[str, str]:
    """Return the parameters of a model."""
    if model.backend == ONNX_RUNTIME:
        return {"intra_op_thread_count": str(served.threads), **model.parameters}
    if model.backend == OPENVINO:
        return {"INFERENCE_NUM_THREADS": str(served.threads), **model.parameters}
    if model.backend == PYTHON and model.file:
        batches = "1" if batched else "0"
        return {"file": model.file, "threads": str(served.threads), "batched": batches, **model.parameters}
    return dict(model.parameters)


def _instances(model: Model, served: Served) -> dict[str, Any]:
    kind = {TENSORRT: "KIND_GPU", ONNX_RUNTIME: "KIND_AUTO"}.get(model.backend, "KIND_CPU")
    return {"count": served.instances, "kind": Word(kind)}


def _tensor(info: TensorInfo, batched: bool) -> dict[str, Any]:
    shape = info.shape[1:] if batched else info.shape
    dims = [each if isinstance(each, int) else -1 for each in shape]
    found: dict[str, Any] = {"name": info.name, "data_type": Word(_type(info)), "dims": dims or [1]}
    if not dims:  # one number for each sample
        found["reshape"] = {"shape": []}
    return found


def _output(model: Model, at: int, batched: bool) -> dict[str, Any]:
    labels = {"label_filename": LABELS} if at == 0 and model.labels else {}
    return {**_tensor(model.outputs[at], batched), **labels}


def _warm_up(model: Model, batched: bool) -> dict[str, Any]:
    inputs = {}
    for each in model.inputs:
        dims = [size if isinstance(size, int) else 1 for size in (each.shape[1:] if batched else each.shape)]
        inputs[each.name] = {"data_type": Word(_type(each)), "dims": dims or [1], "zero_data": True}
    return {"name": "zeros", "batch_size": 1 if batched else 0, "inputs": entries(inputs)}


def _type(info: TensorInfo) -> str:
    if info.dtype not in TYPES:
        raise UsageError(f"Triton has no type for '{info.name}' of {info.dtype[:40]}; it serves {', '.join(TYPES)}")
    return TYPES[info.dtype]


def named(name: str, others: Sequence[str] = ()) -> str:
    """Return a name as Triton takes names: letters, digits, `_`, `-` and `.`, unlike others.

    >>> named("torchvision:resnet18"), named("../x")
    ('torchvision_resnet18', 'x')
    """
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-.") else "_" for letter in name)
    short = plain.strip("._")[:80] or "network"
    return next(each for n in range(len(others) + 1) if (each := f"{short}_{n}" if n else short) not in others)
