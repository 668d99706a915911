"""Target torch-trt: the network with TensorRT engines inside, as torch-tensorrt compiles it on the GPU that will run
it.

torch-tensorrt turns one operator into Q/DQ pairs: `torch.ops.tensorrt.quantize_op`, which nvidia-modelopt registers.
The network is run with that operator in place of the simulation, on TensorRT's grid (signed, zero point 0).
"""

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.base.errors import MissingExtraError, NacdeployError
from nacdeploy.exporters.targets import gpu
from nacdeploy.models.ports import ports_of
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.fake_quant import symmetric_scale
from nacdeploy.network.attachments.weight_quantizers import NEIGHBOURS
from nacdeploy.network.captured.graph import call_with, with_weights
from nacdeploy.network.network import Network, masked_weight, simulated_weight
from nacdeploy.network.semantics import Use
from nacdeploy.profile.tables.deployment import ExportTable

MODEL_FILE = "model.pt2"
# input, amax, num_bits, exponent_bits, unsigned, narrow_range
QuantizeOp = Callable[[Tensor, Tensor, int, int, bool, bool], Tensor]

_LARGEST = 127


class OperatorNetwork(nn.Module):
    """A network on TensorRT's grid whose quantization is `quantize`, with its present scales fixed."""

    def __init__(self, network: Network, quantize: QuantizeOp) -> None:
        super().__init__()
        self.network, self._quantize = network, quantize
        for key, quantizer in network.quantizers.items():
            scale, _ = quantizer.scale_and_zero_point()  # type: ignore[operator]
            self.register_buffer(f"amax_{key}", (scale * _LARGEST).detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        return self.network.run(images, self)

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        return self._quantize(x, getattr(self, f"amax_{key}"), 8, 0, False, False)

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        return y

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        on_grid = simulated_weight(self.network, name, module)
        if name not in self.network.plan.weight_bits or on_grid is None:
            return call_with(module, x, on_grid)
        weight = masked_weight(self.network, name, module)
        shared = self.network.sharing.integers(name) if name in self.network.sharing.books else None
        peak = symmetric_scale(weight, 1) if shared is None else shared[1] * _LARGEST
        amax = peak.reshape(-1, *[1] * (weight.dim() - 1))
        rounded = self._quantize(on_grid, amax, 8, 0, False, False)
        return with_weights(module, x, rounded, module.bias)  # type: ignore[arg-type]


def compile_network(network: Network, table: ExportTable, *, sparse: bool = False) -> tuple[bytes, str]:
    """Return the serialised ExportedProgram of a network for batches from 1 to `table.max_batch`, and the compiler's
    version.

    Exits are left out: the program has the network's own output alone.

    Raises:
        MissingExtraError: torch-tensorrt is not installed.
        NacdeployError: there is no GPU, a precision is not INT8, or torch-tensorrt cannot compile the network.
    """
    torch_tensorrt = _module()
    if (ports := ports_of(network.backbone)) is not None and (ports.packs or ports.joins):
        raise NacdeployError("torch-trt takes networks of one input and one output (N, K): choose trt, ort or openvino")
    if any(bits != 8 for bits in (*network.plan.weight_bits.values(), *network.plan.activation_bits.values())):
        raise NacdeployError("torch-tensorrt holds INT8 alone: export w4a8 for another target, or Q(bits=w8a8)")
    if network.rule is not None and network.rule.weights not in NEIGHBOURS:
        raise NacdeployError(
            f"torch-tensorrt holds weights on its symmetric grid alone, not {network.rule.weights}: choose ort or trt"
        )
    module = OperatorNetwork(network, _quantize_op()) if network.quantizers else network
    smallest, largest = ((n, *network.input_shape) for n in (1, table.max_batch))
    dtype = torch.float16 if table.io_type == "fp16" else torch.float32
    images = torch_tensorrt.Input(min_shape=smallest, opt_shape=smallest, max_shape=largest, dtype=dtype, name="images")
    try:
        compiled = torch_tensorrt.compile(
            module.cuda().eval(),
            ir="dynamo",
            arg_inputs=[images],
            enable_autocast=table.float_type == "fp16",
            autocast_low_precision_type=torch.float16 if table.float_type == "fp16" else None,
            sparse_weights=sparse,
            workspace_size=table.workspace_mib << 20,
        )
        return _saved(torch_tensorrt, compiled, images), f"torch_tensorrt {torch_tensorrt.__version__}"
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NacdeployError(f"torch-tensorrt cannot compile this network: {reason}") from error


def check() -> None:
    """Refuse early what `compile_network` would refuse late.

    Raises:
        MissingExtraError: torch-tensorrt is not installed.
        NacdeployError: there is no GPU.
    """
    _module()


def _quantize_op() -> QuantizeOp:
    try:
        importlib.import_module("modelopt.torch.quantization")
    except ImportError as error:
        raise NacdeployError(
            "INT8 in torch-tensorrt needs nvidia-modelopt, whose operator it converts: pip install nvidia-modelopt"
        ) from error
    return torch.ops.tensorrt.quantize_op


def _module() -> Any:
    """Import torch_tensorrt after checking for a GPU: without a driver the package raises while it is imported."""
    if importlib.util.find_spec("torch_tensorrt") is None:
        raise MissingExtraError("torch-tensorrt", "torch-trt", "target torch-trt")
    gpu.require_gpu("target torch-trt")
    try:
        return importlib.import_module("torch_tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise NacdeployError(f"torch-tensorrt is installed but cannot be imported: {reason}") from error


def _saved(torch_tensorrt: Any, compiled: Any, images: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        torch_tensorrt.save(compiled, str(path), output_format="exported_program", arg_inputs=[images])
        return path.read_bytes()
