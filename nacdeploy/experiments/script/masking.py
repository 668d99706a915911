"""Masks on a plain model that somebody else trains: zeros are written before every call, layers stay what they are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.network.attachments.sparsity import Masks
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels.channel_pruning import Cut

PREFIX = "backbone."


class Masking:
    """The masks (bool, True is kept) of a model's parameters by name; as a hook it survives deepcopy, since it acts on
    the module that is called."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)

    def __call__(self, module: nn.Module, args: Any = None) -> None:
        with torch.no_grad():
            for name, kept in self.masks.items():
                parameter = module.get_parameter(name)
                if parameter.shape == kept.shape:
                    parameter.masked_fill_(~kept.to(parameter.device), 0.0)


def masks_of_cut(model: nn.Module, cut: Cut) -> dict[str, Tensor]:
    """Return the remaining values of each parameter of `model` after a cut, as masks.

    With zeros elsewhere the model answers as the cut one.
    """
    masks: dict[str, Tensor] = {}
    for item in cut.slices:
        name = item.tensor.removeprefix(PREFIX)
        try:
            parameter = model.get_parameter(name)
        except AttributeError:  # a buffer: what a norm has seen of a channel without factor and shift is of no account
            continue
        stays = torch.zeros(parameter.shape[item.axis], dtype=torch.bool)
        stays[list(item.kept)] = True
        shape = [1] * parameter.dim()
        shape[item.axis] = -1
        masks[name] = masks.get(name, torch.ones(parameter.shape, dtype=torch.bool)) & stays.reshape(shape)
    return masks


def taken_masks(network: Network) -> dict[str, Tensor]:
    """Take the masks that S attached off a network, and return them by parameter."""
    found = {layer: network.masks.get(layer) for layer in network.masks.layers}
    network.masks, network.sparsity = Masks({}), None
    return {f"{layer}.weight": kept.clone() for layer, kept in found.items() if kept is not None}


def follow_parameters(
    optimizer: torch.optim.Optimizer | None, former: Mapping[str, nn.Parameter], model: nn.Module
) -> None:
    """Give an optimizer the parameters of `model` that have taken the place of the `former` ones of the same name."""
    if optimizer is None:
        return
    now = dict(model.named_parameters())
    successor = {id(parameter): now[name] for name, parameter in former.items() if name in now}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
        group["params"] = [successor.get(id(parameter), parameter) for parameter in group["params"]]
