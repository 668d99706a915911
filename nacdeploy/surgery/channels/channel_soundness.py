"""The test of a cut: the cut network must answer as the whole network does with zeros in place of the cut values.

Norms over channels (LayerNorm, GroupNorm) count the remaining channels: in the whole network they take their statistics
over the channels that stay, as in the cut one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.captured.graph import Captured, Interpreter, computed_weight, with_weights
from nacdeploy.network.network import Network
from nacdeploy.network.plain import masked_backbone
from nacdeploy.surgery.channels.channel_choice import Group, families
from nacdeploy.surgery.channels.channel_pruning import Attribute, Cut, plan_cut

_BACKBONE = "backbone."
_LEAST_DB, _LEAST_DB_IN_DOUBLE = 90.0, 120.0


class Soundness:
    """Tests one cut after the other of a captured network; the network's values are copied once."""

    def __init__(self, network: Network) -> None:
        self._backbone = masked_backbone(network).eval()
        self._captured = network.captured
        self._image = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
        self._least_db = _LEAST_DB
        if _runs_in_double(network, self._image):
            self._backbone, self._image = self._backbone.double(), self._image.double()
            self._least_db = _LEAST_DB_IN_DOUBLE

    def holds(self, cut: Cut) -> bool:
        """Tell whether the network after `cut` answers as the whole network does with zeros in place of the cut
        values."""
        attributes = [item for item in cut.attributes if item.module.startswith(_BACKBONE)]
        masks = _masks(self._backbone, cut)
        try:
            with torch.no_grad(), _replaced(self._backbone, _blanked(self._backbone, masks), []):
                expected = _Blanked(self._backbone, self._captured, masks).run(self._image)
            with torch.no_grad(), _replaced(self._backbone, _sliced(self._backbone, cut), attributes):
                answer = first_tensor(self._backbone(self._image))
            return expected.shape == answer.shape and snr_db(expected, answer) >= self._least_db
        except Exception:  # any error in the user's own forward after a cut means "not sound"
            return False


Holds: TypeAlias = Callable[[Network, dict[str, tuple[int, ...]]], bool]


def soundness(network: Network) -> Holds:
    """Return the test of a cut by the channels that it removes, by root layer."""
    asked = Soundness(network)
    return lambda network, removed: asked.holds(plan_cut(network, removed))


def sound_ones(network: Network, found: list[Group], holds: Holds) -> list[Group]:
    """Return the groups that may be cut: all at once if that is right, else found by halving."""
    first = {group.root: families(group.n_channels, group.quantum, group.run)[0] for group in found}
    if not found or holds(network, first):
        return found
    half = len(found) // 2
    return [*sound_ones(network, found[:half], holds), *sound_ones(network, found[half:], holds)] if half else []


def _runs_in_double(network: Network, image: Tensor) -> bool:
    """Tell whether neither the graph nor the network's own code makes tensors of single precision."""
    backbone = masked_backbone(network).double().eval()
    try:
        with torch.no_grad():
            found = Interpreter(backbone, network.captured).run(image.double())
            return found.dtype == first_tensor(backbone(image.double())).dtype == torch.float64
    except Exception:  # an operator may raise any error on mixed precision
        return False


def _tensors(backbone: nn.Module, cut: Cut) -> dict[str, Tensor]:
    """Return the backbone's tensors that a cut slices."""
    held = dict((*backbone.named_parameters(), *backbone.named_buffers()))
    paths = [item.tensor.removeprefix(_BACKBONE) for item in cut.slices if item.tensor.startswith(_BACKBONE)]
    return {path: held[path] for path in paths if path in held}


def _masks(backbone: nn.Module, cut: Cut) -> dict[str, Tensor]:
    """Mark the remaining values of each tensor that a cut slices."""
    masks = {path: torch.ones(tensor.shape, dtype=torch.bool) for path, tensor in _tensors(backbone, cut).items()}
    for item in cut.slices:
        mask = masks.get(item.tensor.removeprefix(_BACKBONE))
        if mask is not None and item.tensor.startswith(_BACKBONE):
            gone = sorted(set(range(mask.shape[item.axis])) - set(item.kept))
            mask.index_fill_(item.axis, torch.tensor(gone), False)
    return masks


def _blanked(backbone: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = dict((*backbone.named_parameters(), *backbone.named_buffers()))
    return {path: tensors[path].detach().masked_fill(~mask, 0.0) for path, mask in masks.items()}


def _sliced(backbone: nn.Module, cut: Cut) -> dict[str, Tensor]:
    sliced = {path: tensor.detach() for path, tensor in _tensors(backbone, cut).items()}
    for item in cut.slices:
        path = item.tensor.removeprefix(_BACKBONE)
        if path in sliced and item.tensor.startswith(_BACKBONE):
            sliced[path] = sliced[path].index_select(item.axis, torch.tensor(item.kept))
    return sliced


@contextmanager
def _replaced(backbone: nn.Module, tensors: Mapping[str, Tensor], attributes: Sequence[Attribute]) -> Iterator[None]:
    """Replace tensors and attributes of a module within the block, and restore the former ones at the end."""
    former: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, tensor in tensors.items():
            owner_path, _, name = path.rpartition(".")
            owner = backbone.get_submodule(owner_path)
            is_parameter = name in owner._parameters
            held: dict[str, Any] = owner._parameters if is_parameter else owner._buffers
            former.append((held, name, held[name]))
            held[name] = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        for item in attributes:
            fields = vars(backbone.get_submodule(item.module.removeprefix(_BACKBONE)))
            former.append((fields, item.name, fields[item.name]))
            fields[item.name] = item.value
        yield
    finally:
        for held, name, value in reversed(former):
            held[name] = value


class _Blanked(Interpreter):
    """The whole network with blanked values; its norms over channels count only the remaining ones."""

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
            bias = None if module.bias is None else module.bias.reshape(along)
            return _affine(scaled, module.weight.reshape(along), bias)
        weight = computed_weight(self.module, self._captured, name)
        if weight is None:
            return super().layer(name, module, x)
        own: Any = module.bias
        return with_weights(module, x, weight.nan_to_num(0.0), own)  # a filter of zeros has no direction


def _standardised(x: Tensor, mask: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """Return x with mean 0 and variance 1 of the values under `mask`."""
    stays = mask.expand(x.shape).to(x)
    n = stays.sum(axes, keepdim=True).clamp(min=1.0)
    centred = (x - (x * stays).sum(axes, keepdim=True) / n) * stays
    return centred / (centred.square().sum(axes, keepdim=True) / n + eps).sqrt()


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x * weight if bias is None else x * weight + bias
