"""The latency guard: no artifact leaves here that is slower than the same network in float.

If integers do not pay as a whole, or the user asks for it (`--autotune`), measured time chooses the precision of every
layer group.
"""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import latency
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Ratio
from nacdeploy.base.progress import Say
from nacdeploy.exporters import carry
from nacdeploy.exporters.onnx_graph.trace import Traced
from nacdeploy.exporters.targets.timing import Timer
from nacdeploy.exporters.tune import FLOAT, Measurements, Names, Precisions, Tuner, with_float
from nacdeploy.network.network import Network


@dataclass(frozen=True)
class Guarded:
    """The network that is not slower than its float twin, the measurements, and the notes on them."""

    network: Network
    precisions: Precisions | None = None
    floats: Names = frozenset()
    notes: tuple[str, ...] = ()


def guarded(
    network: Network,
    traced: Traced,
    timer: Timer,
    *,
    target: str,
    autotune: bool,
    measurements: Path | None,
    report: Say,
) -> Guarded:
    """Return the network with the layers in float that make it fastest, if all integers are slower than all float or
    `autotune` is set.

    `settle` then finds the ranges of new edges.
    """
    tuner = Tuner(network, traced, timer, Measurements(measurements), report)
    everything = tuner.speed(frozenset())
    if everything.value >= 1 and not autotune:
        note = f"latency guard: {everything} the speed of the same network in float"
        return Guarded(network, tuner.precisions(frozenset(), target, latency.machine()), notes=(note,))
    report(f"timing precisions by layer group: all in integers is {everything} as fast as all in float")
    floats = tuner.tuned()
    precisions = tuner.precisions(floats, target, latency.machine())
    return Guarded(with_float(network, floats), precisions, floats, (_note(everything, floats, precisions),))


def taken(network: Network, precisions: Precisions) -> Guarded:
    """Return the network with the layers in float that were better in float on another network; nothing is timed.

    Raises:
        UsageError: nothing is quantized, or no layer is of a kind that was measured.
    """
    if not network.quantizers:
        raise UsageError("the checkpoint is in FP32: measured precision says which quantized layers go back to float")
    found = carry.carried(precisions, network)
    return Guarded(with_float(network, found.floats), floats=frozenset(found.floats), notes=(str(found),))


def speed_note(model: bytes, original: bytes, timer: Timer, n_exits: int = 0) -> str:
    """Say how fast a model is against the FP32 network that it came from, with a warning if it is slower.

    A model with exits computes them all here; the ways out of an artifact are timed where it is cut.
    """
    ratio = timer({"now": model, "original": original}, "original").ratios["now"]
    if n_exits:
        return (
            f"all {n_exits} exits in one graph: {ratio} the speed of the FP32 network that it came from, measured here"
        )
    if ratio.high >= 1 or round(ratio.value, 2) >= 1:
        return f"{ratio} the speed of the FP32 network that it came from, measured here"
    return (
        f"SLOWER than the FP32 network that it came from: {ratio} its speed, with every layer in its faster "
        "precision; a chain with larger or aligned steps (prune.multiple) would help; 'nacdeploy explain' says where"
    )


def _note(everything: Ratio, floats: Names, precisions: Precisions) -> str:
    n_members = len(precisions.layers)
    kept = f"{n_members - len(floats)} of {n_members} layers stay on integers"
    outcome = f"{precisions.speed} the speed of float" if len(floats) < n_members else "integers never paid here"
    why = "" if everything.value >= 1 else ", to be no slower than float"
    return (
        f"precision by measured time{why}: all on integers {everything}; {kept} ({outcome}), "
        f"in {FLOAT}: {', '.join(sorted(floats)) or 'none'}"
    )
