"""Speed estimated from a table of layers: each distinct layer is timed once in ONNX Runtime, a network is the sum.

One factor, fitted on networks that were timed whole, stands for what the table leaves out (additions, activations,
products of activations) and for what kernels save side by side; how far such estimates lie from whole timings is
measured at the end of every search, leaving out each network in turn.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from nacdeploy.latencies.layers import layers_of
from nacdeploy.latencies.setting import setting_of
from nacdeploy.latencies.table import Times, read, read_here
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.state import CompressionState
from nacdeploy.trials.speed import Speed

FILE = "layers.json"


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
        given = session.profile.search.latency_table
        self._session = session
        self._times = Times(place / FILE, session.profile, None if given is None else Path(given))

    def __call__(self, state: CompressionState) -> Speed:
        """The estimated speed of a state; its new layers are timed now. It has no interval: the factor is the same for
        the baseline and cancels."""
        now_ms, base_ms = self.sum_ms(state.network), self.sum_ms(self._session.baseline.network)
        return Speed(base_ms / now_ms, None, None, now_ms, base_ms, self._session.profile.search.n_latency_rounds)

    def sum_ms(self, network: Network) -> float:
        """The call and the layers of a network, without the factor."""
        return self._times.sum_ms(layers_of(network))

    def error(self, states: Mapping[str, CompressionState], speeds: Mapping[str, Speed]) -> TableError | None:
        """The error of the table on networks that were timed whole; None of fewer than two."""
        pairs = [(speeds[key].p50_ms, self.sum_ms(state.network)) for key, state in states.items()]
        return _table_error(pairs, self._times.n_layers) if len(pairs) > 1 else None


def check_given(profile: Profile) -> None:
    """Refuse a table that cannot be used here, before any work.

    Raises:
        UsageError: it is not there, is no table, or is of another machine or setting.
    """
    if profile.search.is_timed and profile.search.latency_table is not None:
        read(Path(profile.search.latency_table))
    elif profile.search.on_speed and profile.search.latency_table is not None:
        read_here(Path(profile.search.latency_table), setting_of(profile))


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
