"""Served: a compressed network with the inputs and outputs of the user's own network."""

from typing import Any

from torch import nn

from nacdeploy.models.ports import Ports, ports_of
from nacdeploy.network.network import Network


class Served(nn.Module):
    """Answers what the user's network answers, and can be trained as it: `network` is the compressed one."""

    def __init__(self, network: Network, ports: Ports) -> None:
        super().__init__()
        self.network, self.ports = network, ports

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the answer in the network's own form."""
        given = list(inputs) + [named[port.name] for port in self.ports.inputs[len(inputs) :]]
        return self.ports.restored(self.network(self.ports.packed(given)))


def served(network: Network) -> nn.Module:
    """Return a network as its user calls it."""
    ports = ports_of(network.backbone)
    is_plain = ports is None or not (ports.packs or ports.joins or ports.call == "named")
    return network if ports is None or is_plain else Served(network, ports)
