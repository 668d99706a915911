"""A table of latencies with made-up times, as another machine would write it: no clock decides a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.exporters.targets.ort.probe_models import Layer
from nacdeploy.latencies.clock import _sized
from nacdeploy.latencies.layers import calls_of, layers_of
from nacdeploy.latencies.setting import Setting
from nacdeploy.latencies.table import LatencyTable, LayerTime, NetworkTime
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.operator import rule_to_come
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.task.clock import Grid, Sizes

PHONE = Setting("a phone", "ort", "ONNX Runtime 9", 1, 1)


def layer_ms(layer: Layer) -> float:
    """A time by the weights of a layer, a quarter of it in integers."""
    n = layer.weight_shape[0] * layer.weight_shape[1]
    return (0.01 + n / 1000) / (1 if layer.precision == "float" else 4)


@dataclass
class Phone:
    """A clock that answers by formula and keeps what it was asked."""

    layers: dict[Layer, float] = field(default_factory=dict)
    networks: list[NetworkTime] = field(default_factory=list)
    is_here: bool = True
    where: str = "a phone"

    def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
        calls = {name: layer for name, layer in calls_of(network) if name in sizes}
        return {
            name: tuple(tuple(self._ms(_sized(calls[name], n, m)) for m in outs) for n in ins)
            for name, (ins, outs) in sizes.items()
        }

    def networks_ms(self, networks: Sequence[Network], family: str = "") -> tuple[float, ...]:
        times = []
        for network in networks:
            total = sum(layer_ms(layer) for layer in layers_of(network))
            precision = "int8" if network.plan.weight_bits else "float32"
            self.networks.append(NetworkTime(f"{len(self.networks)}", family, precision, 0.05 + total, total))
            times.append(0.05 + total)
        return tuple(times)

    def kept(self, family: str, precision: str) -> tuple[tuple[float, float], ...]:
        return ()

    def _ms(self, layer: Layer) -> float:
        self.layers[layer] = layer_ms(layer)
        return self.layers[layer]


def write(path: Path, network: Network, profile: Profile, multiple: int) -> LatencyTable:
    """Write the table that `analyze --latency-table` would write on a phone."""
    phone, found = Phone(), channel_groups.groups(network)
    for runs in (network, by_time.deployed(network, rule_to_come(profile))):
        by_time.surveyed(runs, found, multiple, phone)
    times = tuple(LayerTime(layer, ms) for layer, ms in phone.layers.items())
    table = LatencyTable(PHONE, 1.0, 0.0, times, tuple(phone.networks))
    records.write_json(path, table)
    return table
