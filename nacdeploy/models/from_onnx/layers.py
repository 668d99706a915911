"""Nodes with weights as torch's own layers, so that every letter works on them."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.models.from_onnx.pixels import pads_of

Constants = Mapping[str, Tensor]
_CONVOLUTIONS: dict[int, tuple[Any, Any]] = {
    3: (nn.Conv1d, nn.ConvTranspose1d),
    4: (nn.Conv2d, nn.ConvTranspose2d),
    5: (nn.Conv3d, nn.ConvTranspose3d),
}


class AnyBatchNorm(_BatchNorm):
    """Batch norm for any number of axes, as ONNX has it."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class Padded(nn.Module):
    """A convolution behind a padding that torch's convolutions lack: uneven, or by the size of the input."""

    def __init__(self, layer: nn.Module, kernel: tuple[int, ...], attributes: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self._kernel, self._attributes = layer, kernel, attributes

    def forward(self, x: Tensor) -> Tensor:
        n = len(self._kernel)
        strides, dilations = (self._attributes.get(key, [1] * n) for key in ("strides", "dilations"))
        pads = pads_of(x, self._kernel, strides, dilations, self._attributes)
        flat = [p for pair in zip(pads[:n][::-1], pads[n:][::-1], strict=True) for p in pair]
        return self.layer(F.pad(x, flat) if any(flat) else x)


class Left(nn.Module):
    """A layer that no letter finds: its weights are constants of this module, lent to it for each call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        hidden = copy.deepcopy(layer)
        object.__setattr__(self, "_layer", hidden)  # no child: nobody finds it
        for name, value in layer.state_dict().items():
            self.register_buffer(name.replace(".", "_"), value)
        for module in hidden.modules():
            for name in [name for name, value in module._parameters.items() if value is not None]:
                del module._parameters[name]
                module.register_buffer(name, None)
        self._lend({})

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self._layer
        self._lend(dict(self.named_buffers(recurse=False)))
        try:
            found: Tensor = layer(x)
        finally:
            self._lend({})
        return found

    def _lend(self, values: Mapping[str, Tensor]) -> None:
        """Put values in their places, none in the others."""
        layer: Any = self._layer
        for place, module in layer.named_modules():
            for name in module._buffers:
                module._buffers[name] = values.get(f"{place}_{name}".replace(".", "_").lstrip("_"))


def layer(op: str, inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    """Return the layer of a node whose weights are constants, or None for every other node."""
    maker = _MAKERS.get(op)
    return None if maker is None or len(inputs) < 2 else maker(inputs, attributes, constants)


def _bias(inputs: list[str], at: int, constants: Constants) -> Tensor | None:
    return constants.get(inputs[at]) if len(inputs) > at and inputs[at] else None


def _is_computed(inputs: list[str], at: int, constants: Constants) -> bool:
    """Tell whether an input is given, and is no constant."""
    return len(inputs) > at and bool(inputs[at]) and inputs[at] not in constants


def _filled(made: nn.Module, **values: Tensor | None) -> nn.Module:
    for name, value in values.items():
        if value is not None:
            getattr(made, name).data.copy_(value.reshape(getattr(made, name).shape))
    return made.eval()


def _conv(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    weight = constants.get(inputs[1])
    bias = _bias(inputs, 2, constants)
    if weight is None or weight.dim() not in _CONVOLUTIONS or _is_computed(inputs, 2, constants):
        return None
    kernel, groups, n = tuple(weight.shape[2:]), attributes.get("group", 1), weight.dim() - 2
    pads = attributes.get("pads", [0] * 2 * n)
    is_even = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"") and list(pads[:n]) == list(pads[n:])
    made = _CONVOLUTIONS[weight.dim()][0](
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride=tuple(attributes.get("strides", [1] * n)),
        padding=tuple(pads[:n]) if is_even else 0,
        dilation=tuple(attributes.get("dilations", [1] * n)),
        groups=groups,
        bias=bias is not None,
    )
    _filled(made, weight=weight, bias=bias)
    return made if is_even else Padded(made, kernel, attributes)


class Cropped(nn.Module):
    """A transposed convolution without padding, of which the edges are cut off that its padding, or the size that it
    shall have, leaves out."""

    def __init__(self, layer: nn.Module, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self._attributes = layer, attributes

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        n = found.dim() - 2
        pads = list(self._attributes.get("pads", [0] * 2 * n))
        kind = self._attributes.get("auto_pad", b"NOTSET").decode()
        sizes = self._attributes.get("output_shape")
        if sizes is None and kind.startswith("SAME"):
            strides = self._attributes.get("strides", [1] * n)
            sizes = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        if sizes is not None:
            left = [have - wanted for have, wanted in zip(found.shape[2:], sizes[-n:], strict=True)]
            less = [each // 2 for each in left]
            more = [each - half for each, half in zip(left, less, strict=True)]
            pads = [*less, *more] if kind == "SAME_UPPER" else [*more, *less]
        if min(pads) < 0:
            raise NotImplementedError("ConvTranspose to more than its windows reach")
        inner = [slice(b, size - e) for b, e, size in zip(pads[:n], pads[n:], found.shape[2:], strict=True)]
        return found[(slice(None), slice(None), *inner)]


def _transposed(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    weight, bias = constants.get(inputs[1]), _bias(inputs, 2, constants)
    if weight is None or weight.dim() not in _CONVOLUTIONS or _is_computed(inputs, 2, constants):
        return None
    n = weight.dim() - 2
    pads = list(attributes.get("pads", [0] * 2 * n))
    is_even = pads[:n] == pads[n:] and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID", b"")
    is_plain = is_even and "output_shape" not in attributes
    made = _CONVOLUTIONS[weight.dim()][1](
        weight.shape[0],
        weight.shape[1] * attributes.get("group", 1),
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * n)),
        padding=tuple(pads[:n]) if is_plain else 0,
        output_padding=tuple(attributes.get("output_padding", [0] * n)),
        groups=attributes.get("group", 1),
        bias=bias is not None,
        dilation=tuple(attributes.get("dilations", [1] * n)),
    )
    _filled(made, weight=weight, bias=bias)
    return made if is_plain else Cropped(made, attributes)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight=weight, bias=bias)


def _gemm(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    weight, bias = constants.get(inputs[1]), _bias(inputs, 2, constants)
    if weight is None or weight.dim() != 2 or attributes.get("transA", 0) or _is_computed(inputs, 2, constants):
        return None
    if bias is not None and not (bias.numel() == 1 or (bias.numel() == bias.shape[-1] == _n_rows(weight, attributes))):
        return None
    matrix = weight if attributes.get("transB", 0) else weight.T
    offset = None if bias is None else (attributes.get("beta", 1.0) * bias.reshape(-1)).expand(len(matrix))
    return _linear(attributes.get("alpha", 1.0) * matrix, offset)


def _n_rows(weight: Tensor, attributes: dict[str, Any]) -> int:
    return int(weight.shape[0] if attributes.get("transB", 0) else weight.shape[1])


def _matmul(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    weight = constants.get(inputs[1])
    if weight is None or weight.dim() != 2 or inputs[0] in constants:
        return None
    bias = constants.get(attributes.get("bias", ""))
    return _linear(weight.T, bias)


def _fused_matmul(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    weight = constants.get(inputs[1])
    turned = (attributes.get(name, 0) for name in ("transA", "transBatchA", "transBatchB"))
    if weight is None or weight.dim() != 2 or inputs[0] in constants or any(turned):
        return None
    return _linear(attributes.get("alpha", 1.0) * (weight if attributes.get("transB", 0) else weight.T), None)


def _whole_matmul(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    """Return the layer of a product on integers, of a file that is quantised as it runs: the weight's integers."""
    weight, zero = constants.get(inputs[1]), _bias(inputs, 3, constants)
    if weight is None or weight.dim() != 2 or inputs[0] in constants or _is_computed(inputs, 3, constants):
        return None
    return _linear((weight.float() - (0.0 if zero is None else zero.float())).T, None)


def _activated(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    """Return a convolution or matrix product that ONNX Runtime fused with its activation."""
    kind = attributes.get("activation", b"").decode()
    made = _conv(inputs[:3], attributes, constants)
    return None if made is None or len(inputs) > 3 or kind not in _ACTIVATIONS else _sequence(made, kind, attributes)


def _activated_product(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    kind, made = attributes.get("activation", b"").decode(), _gemm(inputs[:3], attributes, constants)
    return None if made is None or kind not in _ACTIVATIONS else _sequence(made, kind, attributes)


def _sequence(made: nn.Module, kind: str, attributes: dict[str, Any]) -> nn.Module:
    values = attributes.get("activation_params", [attributes.get("activation_alpha", 0.01)])
    return nn.Sequential(made, _ACTIVATIONS[kind](*(values if kind in ("LeakyRelu", "Clip") else ())))


_ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "LeakyRelu": nn.LeakyReLU,
    "Clip": nn.Hardtanh,
}


def _batch_norm(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    if not all(name in constants for name in inputs[1:5]) or attributes.get("training_mode", 0):
        return None
    scale, bias, mean, variance = (constants[name] for name in inputs[1:5])
    made = AnyBatchNorm(len(scale), eps=attributes.get("epsilon", 1e-5))
    return _filled(made, weight=scale, bias=bias, running_mean=mean, running_var=variance)


def _layer_norm(inputs: list[str], attributes: dict[str, Any], constants: Constants) -> nn.Module | None:
    scale, bias = constants.get(inputs[1]), _bias(inputs, 2, constants)
    if scale is None or attributes.get("axis", -1) != -scale.dim() or _is_computed(inputs, 2, constants):
        return None
    made = nn.LayerNorm(tuple(scale.shape), eps=attributes.get("epsilon", 1e-5))
    if bias is None:
        nn.init.zeros_(made.bias)
    return _filled(made, weight=scale, bias=bias)


_MAKERS: dict[str, Callable[[list[str], dict[str, Any], Constants], nn.Module | None]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MatMulInteger": _whole_matmul,
    "com.microsoft:FusedMatMul": _fused_matmul,
    "com.microsoft:FusedConv": _activated,
    "com.microsoft:FusedGemm": _activated_product,
}
LAYERS = tuple(_MAKERS)


def multiplied(op: str, given: list[Any], attributes: dict[str, Any]) -> Tensor:
    """Compute a Gemm whose matrices are values of the graph."""
    a, b = (x.T if attributes.get(f"trans{name}", 0) else x for x, name in zip(given, "AB", strict=False))
    found: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return found if len(given) < 3 else found + attributes.get("beta", 1.0) * given[2]
