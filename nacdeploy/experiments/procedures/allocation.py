"""The allocation of cuts to layers: shares by unit that together reach a target, and the network's MACs after them."""

from collections.abc import Mapping
from dataclasses import dataclass

from nacdeploy.network.cost import layer_costs
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.surgery.channels.channel_choice import PRODUCER, READER

MOST = 0.95
_N_HALVINGS = 60


def shifted_to(
    shares: Mapping[str, float], sizes: Mapping[str, int], target: float, most: float = MOST
) -> dict[str, float]:
    """Shares moved by one amount, each within [0, most], so that their mean over `sizes` is `target` (at most
    `most`)."""
    low, high = -1.0, 1.0
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if overall(_moved(shares, middle, most), sizes) < target else (low, middle)
    return _moved(shares, high, most)


def scaled_to(
    weights: Mapping[str, float], sizes: Mapping[str, int], target: float, most: float = MOST
) -> dict[str, float]:
    """Shares in proportion to `weights`, none above `most`, whose mean over `sizes` is `target` (or what all that have
    a weight can give)."""
    low, high = 0.0, most / max(min((w for w in weights.values() if w > 0), default=1.0), 1e-9)
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        found = {name: min(most, middle * weight) for name, weight in weights.items()}
        low, high = (middle, high) if overall(found, sizes) < target else (low, middle)
    return {name: min(most, high * weight) for name, weight in weights.items()}


def overall(shares: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """Return the mean of shares over sizes."""
    return sum(shares[name] * sizes[name] for name in shares) / sum(sizes[name] for name in shares)


def _moved(shares: Mapping[str, float], by: float, most: float) -> dict[str, float]:
    return {name: min(most, max(0.0, share + by)) for name, share in shares.items()}


@dataclass(frozen=True)
class MacsModel:
    """The MACs of a network with fewer channels: of each layer those now, times the share of its outputs and of its
    inputs that stays. Exact up to the layers that no group covers."""

    macs: dict[str, int]
    outputs: dict[str, str]
    inputs: dict[str, str]
    widths: dict[str, int]

    @classmethod
    def of(cls, network: Network) -> "MacsModel":
        """Return the model of a network as it is."""
        groups = channel_groups.groups(network)
        macs: dict[str, int] = {}
        for layer in layer_costs(network, network.example_input()):
            macs[layer.layer] = macs.get(layer.layer, 0) + layer.macs
        by_role = {
            role: {m.layer: g.root for g in groups for m in g.members if m.role == role} for role in (PRODUCER, READER)
        }
        depthwise = {n for n, m in network.backbone.named_modules() if getattr(m, "groups", 1) > 1}
        readers = {name: root for name, root in by_role[READER].items() if name not in depthwise}
        return cls(macs, by_role[PRODUCER], readers, {g.root: g.n_channels for g in groups})

    def total(self, gone: Mapping[str, float]) -> float:
        """Return the MACs when these shares of the channels now there are gone, by group."""
        return sum(
            n * (1 - gone.get(self.outputs.get(layer, ""), 0.0)) * (1 - gone.get(self.inputs.get(layer, ""), 0.0))
            for layer, n in self.macs.items()
        )
