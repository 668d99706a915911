"""Times of networks with exits: of their ways out, each timed in segments, and what follows from the shares."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import onnx
from numpy.typing import NDArray

from nacdeploy.base.latency import Subject
from nacdeploy.exporters.exits.forms import chained
from nacdeploy.exporters.exits.running import forced, rule_of
from nacdeploy.exporters.onnx_graph.cutting import NoCutError, Segmented, reading_integers, segmented
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.targets.runtime import Maker
from nacdeploy.exporters.targets.timing import Timed
from nacdeploy.metrics import Metric
from nacdeploy.strategies.state import CompressionState, structure_key


def timed_key(state: CompressionState) -> str:
    """Return the sha256 of all that decides a state's expected time: its structure, and the shares that leave at its
    exits."""
    key, shares = structure_key(state.network), state.metrics.exit_fractions
    return key if not state.network.exits else f"{key}@{','.join(f'{share:.6g}' for share in shares)}"


def way_keys(key: str, n_exits: int) -> list[str]:
    """Return the keys of the ways out of a structure, the network's own end last."""
    return [f"{key}/{at}" for at in range(n_exits + 1)]


def ways_of(graph: bytes, n_exits: int, key: str, target: Target, metric: Metric) -> dict[str, Timed]:
    """Return the calls that time each way out of a graph; none where it has no exits, or cannot be cut for its target.

    Its last outputs are those of the exits, in order of execution.
    """
    if not n_exits or "segments" not in target.exit_forms:
        return {}
    model = onnx.load_model_from_string(graph)
    outputs = [each.name for each in model.graph.output]
    exits, ends = outputs[-n_exits:], outputs[:-n_exits]
    try:
        parts = segmented(reading_integers(model, exits, ends), exits, ends)
    except NoCutError:
        return {}
    rows = forced(n_exits)
    chain = _Chains(parts, metric)
    return {name: partial(chain.call, row) for name, row in zip(way_keys(key, n_exits), rows, strict=True)}


class _Chains:
    """The segments of one graph, opened once for all ways out."""

    def __init__(self, parts: Segmented, metric: Metric) -> None:
        self._parts, self._rule = parts, rule_of("", metric)
        self._chain: Any = None

    def call(self, row: Sequence[float], make: Maker, images: NDArray[Any]) -> Subject:
        if self._chain is None:
            self._chain = chained(self._parts, make, self._rule, row)
        return Subject(partial(self._chain.run, images, row))


def mean(values: Mapping[str, float], keys: Sequence[str], shares: Sequence[float]) -> float:
    """Return the expected value of the ways out."""
    return sum(share * values[key] for key, share in zip(keys, shares, strict=True))
