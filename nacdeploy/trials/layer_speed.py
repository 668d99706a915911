"""Speed estimated from a table of layers: each distinct layer is timed once in ONNX Runtime, a network is the sum.

One factor, fitted on networks that were timed whole, stands for what the table leaves out (additions, activations,
products of activations) and for what kernels save side by side; how far such estimates lie from whole timings is
measured at the end of every search, leaving out each network in turn.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn

from nacdeploy.base import latency, records
from nacdeploy.exporters.targets.ort.probe_models import Layer, Signs, conv_stack, no_layer, one_layer
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer
from nacdeploy.network.network import Network
from nacdeploy.network.plain import layer_inputs
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.state import CompressionState
from nacdeploy.trials.speed import Setting, Speed, check_setting, setting_of

FILE = "layers.json"
_ANCHOR, _NOTHING = "anchor", "nothing"
_ROUND_MS = 4.0
_SMALLEST_MS = 1e-4


@dataclass(frozen=True)
class LayerTime:
    """One layer and the median of its own time, without the call around it."""

    layer: Layer
    p50_ms: float


@dataclass(frozen=True)
class LayerTable:
    """layers.json: times of layers in one setting. Every batch of timings is scaled to the same time of one small
    network that is timed along, so that a machine that slows down does not slow the layers met last."""

    setting: Setting
    anchor_ms: float
    call_ms: float
    layers: tuple[LayerTime, ...] = ()


@dataclass(frozen=True)
class TableError:
    """The error of estimates against whole timings, as fractions of the measured time.

    Each of `n_networks` is estimated with the factor fitted on the others; `factor` is fitted on all.
    """

    n_layers: int
    n_networks: int
    factor: float
    median_error: float
    worst_error: float


class LayerSpeeds:
    """Estimates for the states of one search, in the run's folder `place`."""

    def __init__(self, session: Session, place: Path) -> None:
        """Raises: UsageError: the table at hand is of another machine or setting."""
        self._session, self._path = session, place / FILE
        self._setting = setting_of(session.profile)
        self._table = self._opened()
        self._times = {row.layer: row.p50_ms for row in self._table.layers} if self._table else {}

    def __call__(self, state: CompressionState) -> Speed:
        """The estimated speed of a state; its new layers are timed now. It has no interval: the factor is the same for
        the baseline and cancels."""
        now_ms, base_ms = self.sum_ms(state.network), self.sum_ms(self._session.baseline.network)
        return Speed(base_ms / now_ms, None, None, now_ms, base_ms, self._session.profile.search.n_latency_rounds)

    def sum_ms(self, network: Network) -> float:
        """The call and the layers of a network, without the factor."""
        layers = layers_of(network)
        if not self._times.keys() >= set(layers):
            self._time(layers)
        call_ms = self._table.call_ms if self._table else 0.0
        return call_ms + sum(self._times[layer] for layer in layers)

    def error(self, states: Mapping[str, CompressionState], speeds: Mapping[str, Speed]) -> TableError | None:
        """The error of the table on networks that were timed whole; None of fewer than two."""
        pairs = [(speeds[key].p50_ms, self.sum_ms(state.network)) for key, state in states.items()]
        return _table_error(pairs, len(self._times)) if len(pairs) > 1 else None

    def _opened(self) -> LayerTable | None:
        given = self._session.profile.search.latency_table
        if self._path.is_file():
            return _read(self._path, self._setting)
        return None if given is None else _read(Path(given), self._setting)

    def _extend(self) -> None:
        """Read the times that another process has added meanwhile."""
        self._table = self._opened() or self._table
        self._times |= {row.layer: row.p50_ms for row in self._table.layers} if self._table else {}

    def _time(self, layers: Sequence[Layer]) -> None:
        profile = self._session.profile
        with FileLock(self._path.with_suffix(".lock")):
            self._extend()
            new = [layer for layer in dict.fromkeys(layers) if layer not in self._times]
            times = _timed(new, profile.bench.threads, profile.bench.batch_sizes[0], profile.search.n_latency_rounds)
            table = self._table or LayerTable(self._setting, times[_ANCHOR], times[_NOTHING])
            scale = table.anchor_ms / times[_ANCHOR]
            own = {layer: max(times[layer] - times[_NOTHING], _SMALLEST_MS) * scale for layer in new}
            self._times |= own
            self._table = replace(table, layers=(*table.layers, *(LayerTime(layer, ms) for layer, ms in own.items())))
            records.write_json(self._path, self._table)


def check_given(profile: Profile) -> None:
    """Refuse a table that cannot be used here, before any work.

    Raises:
        UsageError: it is not there, is no table, or is of another machine or setting.
    """
    if profile.search.on_speed and profile.search.latency_table is not None:
        _read(Path(profile.search.latency_table), setting_of(profile))


def read(path: Path) -> LayerTable:
    """Read a table of layers.

    Raises:
        UsageError: it is not there, or is none.
    """
    return records.read(LayerTable, path)


def _read(path: Path, here: Setting) -> LayerTable:
    table = read(path)
    check_setting(table.setting, here, path, "leave search.latency_table away to measure here")
    return table


def _table_error(pairs: Sequence[tuple[float, float]], n_layers: int) -> TableError:
    """The error of estimates from pairs of (measured time, sum of layers), at least two, each left out in turn."""
    errors = []
    for index, (whole, total) in enumerate(pairs):
        others = [pair for at, pair in enumerate(pairs) if at != index]
        errors.append(abs(_factor(others) * total / whole - 1))
    return TableError(n_layers, len(pairs), _factor(pairs), median(errors), max(errors))


def _factor(pairs: Iterable[tuple[float, float]]) -> float:
    """The geometric mean of measured over summed."""
    return math.exp(float(np.mean([math.log(whole / total) for whole, total in pairs])))


def layers_of(network: Network) -> list[Layer]:
    """The calls of convolutions and linear layers for one image, in order of execution; heads included."""
    layers, heads = network.layers, [head.linear for head in network.heads.values()]
    own = [
        _layer(network, name, layers[name], tuple(x.shape[1:]))
        for name, x in layer_inputs(network, network.example_input())
    ]
    return [*own, *(_layer(network, None, linear, (linear.in_features,)) for linear in heads)]


def _layer(network: Network, name: str | None, module: nn.Module, shape: tuple[int, ...]) -> Layer:
    """A layer of the backbone, or (without a name) the linear layer of a head."""
    weight_shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    layer = Layer(shape, weight_shape)
    if isinstance(module, nn.Conv2d):
        layer = replace(
            layer, strides=module.stride, pads=_pads(module), dilations=module.dilation, group=module.groups
        )
    if name is None:
        return layer
    if network.sparsity is not None and network.masks.get(name) is not None:
        layer = replace(layer, pattern=network.sparsity.pattern_of(name))
    quantizer, bits = _input_quantizer(network, name), network.plan.weight_bits.get(name)
    if bits is None or quantizer is None:
        return layer
    signs: Signs = "unsigned" if quantizer.affine else "signed"
    return replace(layer, precision=f"w{bits}a{int(quantizer.bits)}", signs=signs)


def _input_quantizer(network: Network, name: str) -> ActivationQuantizer | None:
    """Return the quantizer of a layer's input, at the first of its calls that has one."""
    nodes = network.graph.nodes if network.graph is not None else ()
    readers = [name, *(node.name for node in nodes if node.op == "call_module" and node.target == name)]
    keys = (network.plan.inputs.get(reader, {}).get(0) for reader in readers)
    quantizer = next((network.quantizers[key] for key in keys if key is not None), None)
    return quantizer if isinstance(quantizer, ActivationQuantizer) else None


def _pads(module: nn.Conv2d) -> tuple[int, ...]:
    """Return the padding of a convolution in ONNX's order: before every axis, then behind."""
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return (*(total // 2 for total in totals), *(total - total // 2 for total in totals))
    return (*module.padding, *module.padding)


def _timed(layers: Sequence[Layer], threads: int, batch_size: int, n_rounds: int) -> dict[Any, float]:
    """The medians of layers, of a small network that is always the same, and of a call that does nothing, in turns."""
    models: dict[Any, tuple[onnx.ModelProto, NDArray[Any]]] = {layer: one_layer(layer, batch_size) for layer in layers}
    models[_ANCHOR] = conv_stack(64, 14, None), np.ones((1, 64, 14, 14), np.float32)
    models[_NOTHING] = no_layer()
    names = {str(index): key for index, key in enumerate(models)}
    subjects: dict[str, Callable[[], object]] = {}
    for name, key in names.items():
        model, images = models[key]
        runner = OnnxRunner(model.SerializeToString(), threads=threads)
        subjects[name] = partial(runner.run_feeds, {"images": images})
    compared = latency.compare(
        subjects, baseline="0", batch_size=batch_size, threads=threads, n_rounds=n_rounds, round_ms=_ROUND_MS
    )
    return {key: compared.latencies[name].p50_ms for name, key in names.items()}
