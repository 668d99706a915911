"""The clock of a session: times from the table of its network and machine, or from a table that was carried here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Comparison
from nacdeploy.exporters.targets.ort.probe_models import Layer
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.latencies.graphs import Graphs, timer_of
from nacdeploy.latencies.layers import calls_of, layers_of
from nacdeploy.latencies.setting import setting_of
from nacdeploy.latencies.table import NetworkTime, Times
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.state import structure_key
from nacdeploy.task import Task
from nacdeploy.task.clock import Grid, Sizes

N_ROUNDS = 31
NOISE = 0.1  # of a time: what the middle of the rounds may be uncertain by
_TRIES = (N_ROUNDS, 3 * N_ROUNDS, 3 * N_ROUNDS)  # more where the first ones are too noisy


@dataclass(frozen=True)
class TableClock:
    """See `task.clock.Clock`.

    Attributes:
        task: the network and its inputs.
        profile: the target and the method.
        root: the folder in which tables are kept.
        carried: a table of another machine, in place of any measurement.
    """

    task: Task
    profile: Profile
    root: Path
    carried: Path | None = None

    @property
    def is_here(self) -> bool:
        """See `Clock`."""
        return self.carried is None

    @property
    def where(self) -> str:
        """See `Clock`."""
        table = self.times.table
        return f"{table.setting.runtime} on {table.setting.machine}" if table else self.profile.target.name

    @cached_property
    def times(self) -> Times:
        """The table, measured here as far as it is not at hand.

        Raises:
            NacdeployError: the target is not here, and no table of it was given.
        """
        if self.carried is not None:
            return Times(self.carried, self.profile, carried=True)
        self._check_here()
        setting, method = setting_of(self.profile), self.profile.search.n_latency_rounds
        key = records.sha256_data([records.to_data(setting), self.task.spec.content, method])
        return Times(self.root / f"{key[:16]}.json", self.profile)

    def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
        """See `Clock`."""
        calls: dict[str, list[Layer]] = {name: [] for name in sizes}
        for name, layer in calls_of(network):
            if name in calls:
                calls[name].append(layer)
        wanted = {
            name: [[_sized(call, n_in, n_out) for call in calls[name]] for n_in in ins for n_out in outs]
            for name, (ins, outs) in sizes.items()
        }
        self.times.layers_ms([layer for cells in wanted.values() for cell in cells for layer in cell])
        return {name: self._grid(wanted[name], len(sizes[name][1])) for name in sizes}

    def networks_ms(self, networks: Sequence[Network], family: str = "") -> tuple[float, ...]:
        """See `Clock`. A structure that was timed before is not timed again, and each time is the first network's over
        their ratio in the same rounds, so that a machine that slows down changes nothing."""
        keys = [structure_key(network) for network in networks]
        known = {each.structure: each.p50_ms for each in (self.times.table.networks if self.times.table else ())}
        new = {key: network for key, network in zip(keys, networks, strict=True) if key not in known}
        if new:
            known |= self._timed({keys[0]: networks[0], **new}, keys[0], known.get(keys[0]), family)
        return tuple(known[key] for key in keys)

    def kept(self, family: str, precision: str) -> tuple[tuple[float, float], ...]:
        """See `Clock`. A carried table is of one network: where it does not know the family, all of its networks
        count."""
        rows = [each for each in (self.times.table.networks if self.times.table else ()) if each.precision == precision]
        own = [each for each in rows if each.family == family]
        call_ms = self.times.call_ms  # which the sum of a table's network has, and the sum of `layers_ms` has not
        return tuple((each.p50_ms, each.sum_ms - call_ms) for each in own or (rows if self.carried else []))

    def _timed(
        self, networks: Mapping[str, Network], first: str, first_ms: float | None, family: str
    ) -> dict[str, float]:
        if self.carried is not None:
            raise NacdeployError(f"{self.carried} was measured elsewhere, and holds no time of this network")
        sums = {key: self.times.sum_ms(layers_of(network)) for key, network in networks.items()}
        graphs = Graphs(self.profile.export.opset)
        models = {key: graphs.model(network) for key, network in networks.items()}
        with self.times.locked():
            found = self._steady(models, first)
        ratios, on_device = found.device_ratios or found.ratios, found.device_latencies
        base_ms = first_ms or (on_device[first].p50_ms if on_device else found.turn_ms[first])
        times = {key: base_ms / ratios[key].value for key in networks}
        self.times.add(
            [
                NetworkTime(key, family, "int8" if each.plan.weight_bits else "float32", times[key], sums[key])
                for key, each in networks.items()
            ]
        )
        return times

    def _steady(self, models: Mapping[str, bytes], first: str) -> Comparison:
        """Time models in turns, with the first once more: its ratio to itself says how noisy the machine is.

        Raises:
            NacdeployError: too noisy.
        """
        again = f"{first} again"
        subjects, spread = {**models, again: models[first]}, 0.0
        for n_rounds in _TRIES:
            found = timer_of(self.task, self.profile, n_rounds, fastest=True)(subjects, first)
            ratio = (found.device_ratios or found.ratios)[again]
            spread = max(ratio.high - 1, 1 - ratio.low)
            if spread <= NOISE:
                return found
        raise NacdeployError(
            f"this machine is too noisy to measure: one network against itself differs by {100 * spread:.0f} % "
            f"(95 % interval of the middle of {_TRIES[-1]} rounds; {100 * NOISE:.0f} % is enough): let nothing "
            "else run, or give a table that was measured on a quiet machine"
        )

    def _grid(self, cells: Sequence[Sequence[Layer]], n_columns: int) -> Grid:
        each = [sum(self.times.layers_ms(cell)) for cell in cells]
        return tuple(tuple(each[start : start + n_columns]) for start in range(0, len(each), n_columns))

    def _check_here(self) -> None:
        """Refuse a target that cannot be timed here.

        Raises:
            NacdeployError: says why, and what works.
        """
        target = self.profile.target
        runtime = runtime_of(target)
        instead = (
            "give a table that was written on the target machine (nacdeploy analyze --latency-table FILE there, "
            "--latency-table FILE here), or set target = 'ort'"
        )
        if target.times_instead or runtime.maker(self.profile.export, self.profile.bench.threads) is None:
            raise NacdeployError(f"target '{target.name}' is not timed here: {instead}")
        if missing := runtime.missing(self.profile.export):
            raise NacdeployError(f"target '{target.name}' is not timed here, {missing}: {instead}")
        runtime.version()


def _sized(layer: Layer, n_in: int, n_out: int) -> Layer:
    """Return the layer with other numbers of channels; a depthwise one has as many inputs as its outputs need."""
    weight = layer.weight_shape
    if len(weight) == 2:
        return replace(layer, input_shape=(*layer.input_shape[:-1], n_in), weight_shape=(n_out, n_in))
    group = layer.group
    if group > 1 and weight[1] == 1:
        n_in = group = max(1, n_out * group // weight[0])
    shape = (n_out, max(1, n_in // group), *weight[2:])
    return replace(layer, input_shape=(n_in, *layer.input_shape[1:]), weight_shape=shape, group=group)
