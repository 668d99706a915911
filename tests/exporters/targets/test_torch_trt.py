"""Target torch-trt as far as it runs without a GPU: the quantized network by operator, and every refusal."""

import importlib.util
import sys

import pytest
import torch
from small_networks import Residual, images, network
from torch import Tensor

from nacdeploy.base.errors import MissingExtraError, NacdeployError
from nacdeploy.base.precision import Precision
from nacdeploy.exporters.artifacts.onnx_checks import snr_db
from nacdeploy.exporters.targets.torch_trt import build as torch_trt
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.deployment import ExportTable


def quantize(x: Tensor, amax: Tensor, n_bits: int, exponent_bits: int, unsigned: bool, narrow_range: bool) -> Tensor:
    """The operator as torch-tensorrt converts it: integers of amax / 127, from -128 to 127."""
    assert (n_bits, exponent_bits, unsigned, narrow_range) == (8, 0, False, False)
    scale = amax / 127
    return torch.clamp(torch.round(x / scale), -128, 127) * scale


@pytest.fixture
def made() -> Network:
    made = network(Residual(), "trt")
    made.quantize(Rule(Precision(8, 8)))
    for quantizer in made.quantizers.values():
        quantizer.set_range(-3.0, 3.0)
    return made


def test_network_by_operator_answers_as_the_simulation(made: Network) -> None:
    x = images()
    with torch.no_grad():
        expected, found = made(x), torch_trt.OperatorNetwork(made, quantize)(x)
    assert snr_db(expected.numpy(), found.numpy()) > 35, "but for values that round the other way"


def test_network_by_operator_can_be_exported_with_a_free_batch(made: Network) -> None:
    module = torch_trt.OperatorNetwork(made, quantize).eval()
    program = torch.export.export(module, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=16)},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images(5)), module(images(5)))


def test_missing_torch_tensorrt_is_one_line(made: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nacdeploy\[torch-trt\]'"):
        torch_trt.compile_network(made, ExportTable())


def test_torch_tensorrt_without_gpu_is_one_line(made: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NacdeployError, match="target torch-trt needs an NVIDIA GPU"):
        torch_trt.compile_network(made, ExportTable())
    assert "torch_tensorrt" not in sys.modules
