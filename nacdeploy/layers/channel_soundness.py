"""Whether a cut is right: the cut network answers as the whole one does with zeros in place of all that was cut.

Norms over channels (LayerNorm, GroupNorm) count what is left: of the whole network they take their statistics over the
channels that stay, as the cut one does.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.layers.capture import Captured, Interpreter, first_tensor
from nacdeploy.layers.network import Network

Kept = Mapping[tuple[str, int], tuple[int, ...]]


def is_sound(network: Network, kept: Kept, cut: nn.Module) -> bool:
    """Whether `cut`, a copy of the backbone in double precision, answers as the network with zeros where `kept` leaves
    places out."""
    image = torch.randn(1, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = copy.deepcopy(network.backbone).double().eval()
    try:
        masks = blank(whole, kept)
        with torch.no_grad():
            expected = _Blanked(whole, network.captured, masks).run(image)
            return torch.allclose(expected, first_tensor(cut.double().eval()(image)), rtol=1e-6, atol=1e-9)
    except Exception:  # whatever a wrong cut raises in the user's own forward, it means "not sound"
        return False


def blank(backbone: nn.Module, kept: Kept) -> dict[str, Tensor]:
    """Write zeros where a cut would slice; which values are left, by tensor."""
    tensors = dict((*backbone.named_parameters(), *backbone.named_buffers()))
    masks: dict[str, Tensor] = {}
    with torch.no_grad():
        for (name, axis), stays in kept.items():
            path = name.removeprefix("backbone.")
            if path in tensors and name != path:
                mask = masks.setdefault(path, torch.ones(tensors[path].shape, dtype=torch.bool))
                gone = sorted(set(range(mask.shape[axis])) - set(stays))
                mask.index_fill_(axis, torch.tensor(gone), False)
        for path, mask in masks.items():
            tensors[path].masked_fill_(~mask, 0.0)
    return masks


class _Blanked(Interpreter):
    """The whole network with blanked values, its norms over channels counting those that are left."""

    def __init__(self, backbone: nn.Module, captured: Captured, masks: Mapping[str, Tensor]) -> None:
        super().__init__(backbone, captured)
        self._masks = masks

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Any:
        mask = self._masks.get(f"{name}.weight")
        if mask is not None and isinstance(module, nn.LayerNorm):
            axes = tuple(range(x.dim() - mask.dim(), x.dim()))
            return _affine(_standardised(x, mask, axes, module.eps), module.weight, module.bias)
        if mask is not None and isinstance(module, nn.GroupNorm):
            shape = (module.num_groups, -1, *[1] * (x.dim() - 2))
            parts = x.unflatten(1, (module.num_groups, -1))
            scaled = _standardised(parts, mask.reshape(shape), tuple(range(2, parts.dim())), module.eps).flatten(1, 2)
            along = (-1, *[1] * (x.dim() - 2))
            return _affine(scaled, module.weight.reshape(along), module.bias.reshape(along))
        return super().layer(name, module, x)


def _standardised(x: Tensor, mask: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """x with mean 0 and variance 1 of the values that `mask` leaves."""
    stays = mask.expand(x.shape).to(x)
    n = stays.sum(axes, keepdim=True).clamp(min=1.0)
    centred = (x - (x * stays).sum(axes, keepdim=True) / n) * stays
    return centred / (centred.square().sum(axes, keepdim=True) / n + eps).sqrt()


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x * weight if bias is None else x * weight + bias
