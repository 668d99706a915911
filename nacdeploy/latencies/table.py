"""The table of latencies: each distinct layer timed once as a model of its own, and networks timed whole.

Every batch of timings is scaled to the same time of one small network that is timed along, so that a machine that slows
down does not slow the layers met last.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from filelock import FileLock
from numpy.typing import NDArray

from nacdeploy.base import latency, records
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.targets.ort.probe_models import Layer, conv_stack, no_layer, one_layer
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.latencies.setting import Setting, check_setting, maker_here, setting_of
from nacdeploy.profile import Profile

_ANCHOR, _NOTHING = "anchor", "nothing"
_ROUND_MS = 4.0
_SMALLEST_MS = 1e-4
_N_AT_ONCE = 96  # models in memory
_N_NEAR = 8  # numbers of channels on each side of one between which it may lie


@dataclass(frozen=True)
class LayerTime:
    """One layer and the median of its own time, without the call around it."""

    layer: Layer
    p50_ms: float


@dataclass(frozen=True)
class NetworkTime:
    """One network timed whole.

    Attributes:
        structure: the facts that decide its time, as a hash (`state.structure_key`).
        family: the network that it was cut from, as a hash; "" if it is not known.
        precision: "int8" if any layer reads integers, else "float32".
        p50_ms: the median time.
        sum_ms: the sum of its layers in this table.
    """

    structure: str
    family: str
    precision: str
    p50_ms: float
    sum_ms: float


@dataclass(frozen=True)
class LatencyTable:
    """Times in one setting, as a file (layers.json of a search, or one that another machine brings)."""

    setting: Setting
    anchor_ms: float
    call_ms: float
    layers: tuple[LayerTime, ...] = ()
    networks: tuple[NetworkTime, ...] = ()


class Times:
    """The times of a table that is kept in a file: layers are timed when they are first asked for.

    A table that is `carried` from another machine is only read.
    """

    def __init__(self, path: Path, profile: Profile, given: Path | None = None, carried: bool = False) -> None:
        """`given` is a table of this setting to begin with.

        Raises:
            UsageError: the table at hand is of another machine or setting.
        """
        self._path, self._profile, self._given, self.is_carried = path, profile, given, carried
        self._setting: Setting | None = None
        self._table: LatencyTable | None = None
        self._layers: dict[Layer, float] = {}
        self._extend()

    @property
    def table(self) -> LatencyTable | None:
        """The table as it is in memory; None before the first timing."""
        return self._table

    @property
    def n_layers(self) -> int:
        """The number of layers with a time."""
        return len(self._layers)

    @property
    def call_ms(self) -> float:
        """The time of a call without a layer."""
        return self._table.call_ms if self._table else 0.0

    def layers_ms(self, layers: Sequence[Layer]) -> list[float]:
        """Return the own times of layers, timed now where they are new.

        Raises:
            UsageError: a carried table does not hold a layer.
        """
        if self.is_carried:
            return [self._carried_ms(layer) for layer in layers]
        if not self._layers.keys() >= set(layers):
            self._time(layers)
        return [self._layers[layer] for layer in layers]

    def sum_ms(self, layers: Sequence[Layer]) -> float:
        """Return the time of a call and of layers."""
        each = self.layers_ms(layers)
        return self.call_ms + sum(each)

    def add(self, networks: Sequence[NetworkTime]) -> None:
        """Keep times of whole networks."""
        with self.locked():
            self._extend()
            assert self._table is not None
            known = {each.structure: each for each in (*self._table.networks, *networks)}
            self._table = replace(self._table, networks=tuple(known.values()))
            records.write_json(self._path, self._table)

    def locked(self) -> AbstractContextManager[Any]:
        """One process times at a time: what runs beside would be timed too."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_suffix(".lock"))

    def _carried_ms(self, layer: Layer) -> float:
        """Return the time of a layer, between those of the nearest layers that differ in channels alone."""
        layer = _in_integers(layer)
        if layer in self._layers:
            return self._layers[layer]
        kind = _without_channels(layer)
        alike = {_channels_of(known): ms for known, ms in self._layers.items() if _without_channels(known) == kind}
        found = between(alike, _channels_of(layer))
        if found is None:
            raise UsageError(
                f"{self._path} holds no time of {_named(layer)}: write the table with 'nacdeploy analyze "
                "--latency-table' for this network, input size and profile"
            )
        return found

    def _time(self, layers: Sequence[Layer]) -> None:
        with self.locked():
            self._extend()
            new = [layer for layer in dict.fromkeys(layers) if layer not in self._layers]
            for start in range(0, len(new), _N_AT_ONCE):
                self._time_some(new[start : start + _N_AT_ONCE])

    def _time_some(self, new: Sequence[Layer]) -> None:
        times = _timed(new, self._profile)
        table = self._table or LatencyTable(self._here(), times[_ANCHOR], times[_NOTHING])
        scale = table.anchor_ms / times[_ANCHOR]
        own = {layer: max(times[layer] - times[_NOTHING], _SMALLEST_MS) * scale for layer in new}
        self._layers |= own
        self._table = replace(table, layers=(*table.layers, *(LayerTime(layer, ms) for layer, ms in own.items())))
        records.write_json(self._path, self._table)

    def _here(self) -> Setting:
        self._setting = self._setting or setting_of(self._profile)
        return self._setting

    def _extend(self) -> None:
        """Read the times that this or another process has kept."""
        opened = self._opened()
        if opened is not None:
            self._table = opened
            self._layers |= {row.layer: row.p50_ms for row in opened.layers}

    def _opened(self) -> LatencyTable | None:
        if self.is_carried:
            return read_carried(self._path, self._profile)
        for path in (self._path, self._given):
            if path is not None and (path == self._given or path.is_file()):
                return read_here(path, self._here())
        return None


def read(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        UsageError: it is not there, is none, or holds a time that cannot be.
    """
    table = records.read(LatencyTable, path)
    times = (*(each.p50_ms for each in table.layers), *(each.p50_ms for each in table.networks))
    sums = (*(each.sum_ms for each in table.networks), table.anchor_ms)
    if not all(0 < ms < float("inf") for ms in (*times, *sums)) or not 0 <= table.call_ms < float("inf"):
        raise UsageError(f"{path} holds a time that is not above 0 ms: measure again")
    return table


def read_carried(path: Path, profile: Profile) -> LatencyTable:
    """Read a table of another machine.

    Raises:
        UsageError: it is of another target, batch or number of threads than the profile asks for.
    """
    table, bench = read(path), profile.bench
    asked = {"target": profile.target.name, "batch_size": bench.batch_sizes[0], "threads": bench.threads}
    theirs = records.to_data(table.setting)
    if differs := [
        f"{key} '{theirs[key]}', and '{asked[key]}' is asked for" for key in asked if theirs[key] != asked[key]
    ]:
        raise UsageError(
            f"{path} holds times of {'; '.join(differs)}: give the target and the bench settings that it was written "
            "with, or write one with these ('nacdeploy analyze --latency-table' on the target machine)"
        )
    return table


def read_here(path: Path, here: Setting) -> LatencyTable:
    """Read a table of this machine and setting.

    Raises:
        UsageError: it is of another.
    """
    table = read(path)
    check_setting(table.setting, here, path, "leave search.latency_table away to measure here")
    return table


def between(known: Mapping[tuple[int, int], float], at: tuple[int, int]) -> float | None:
    """Return the value at a point between four known points, the corners of a rectangle around it, of the smallest such
    rectangle; None outside of all.

    A table that was kept for long holds single points between those of its grid.
    """
    sides = []
    for axis, value in enumerate(at):
        values = sorted({point[axis] for point in known})
        below, above = (
            [v for v in values if v <= value][: -_N_NEAR - 1 : -1],
            [v for v in values if v >= value][:_N_NEAR],
        )
        sides.append([(low, high) for low in below for high in above])
    around = [
        (rows, columns)
        for rows, columns in product(*sides)
        if all(corner in known for corner in product(rows, columns))
    ]
    if not around:
        return None
    rows, columns = min(around, key=lambda each: (1 + each[0][1] - each[0][0]) * (1 + each[1][1] - each[1][0]))
    weights = [
        [(low, 1.0 - share), (high, share)]
        for (low, high), value in zip((rows, columns), at, strict=True)
        for share in [(value - low) / (high - low) if high > low else 0.0]
    ]
    return sum(known[x, y] * a * b for (x, a), (y, b) in product(*weights))


def _in_integers(layer: Layer) -> Layer:
    """Return the layer as the kernels see it: four bits are held in eight."""
    return layer if layer.precision == "float" else replace(layer, precision="w8a8")


def _channels_of(layer: Layer) -> tuple[int, int]:
    """Return the input and output channels of a layer; those of a depthwise one follow from another."""
    of_input = layer.input_shape[-1 if len(layer.weight_shape) == 2 else 0]
    return (0 if _is_depthwise(layer) else of_input), layer.weight_shape[0]


def _is_depthwise(layer: Layer) -> bool:
    return layer.group > 1 and layer.weight_shape[1] == 1


def _without_channels(layer: Layer) -> Layer:
    sides = layer.input_shape[:-1] if len(layer.weight_shape) == 2 else layer.input_shape[1:]
    group = -1 if _is_depthwise(layer) else layer.group
    return replace(layer, input_shape=sides, weight_shape=layer.weight_shape[2:], group=group)


def _named(layer: Layer) -> str:
    shapes = f"{'x'.join(map(str, layer.weight_shape))} on {'x'.join(map(str, layer.input_shape))}"
    return f"a layer {shapes} ({layer.precision})"


def _timed(layers: Sequence[Layer], profile: Profile) -> dict[Any, float]:
    """Measure the times of layers, of a small network that never changes, and of a call that does nothing, in turns."""
    table = profile.bench
    batch_size = table.batch_sizes[0]
    models: dict[Any, tuple[onnx.ModelProto, NDArray[Any]]] = {layer: one_layer(layer, batch_size) for layer in layers}
    models[_ANCHOR] = conv_stack(64, 14, None), np.ones((1, 64, 14, 14), np.float32)
    models[_NOTHING] = no_layer()
    names = {str(index): key for index, key in enumerate(models)}
    calls = dict(zip(names, _calls(models.values(), profile), strict=True))
    compared = latency.compare(
        calls,
        baseline="0",
        batch_size=batch_size,
        threads=table.threads,
        n_rounds=profile.search.n_latency_rounds,
        round_ms=_ROUND_MS,
        fastest=True,
    )
    return {key: compared.turn_ms[name] for name, key in names.items()}


def _calls(models: Any, profile: Profile) -> Iterator[Callable[[], object]]:
    """Yield the calls of models on the target, or in ONNX Runtime on the CPU where that is what is timed."""
    target = profile.target
    make = None if target.timed_by_onnx_runtime else maker_here(target, profile)
    for model, images in models:
        content = model.SerializeToString()
        if make is None:
            yield partial(OnnxRunner(content, threads=profile.bench.threads).run_feeds, {"images": images})
        else:
            yield make(content).subject(images).run
