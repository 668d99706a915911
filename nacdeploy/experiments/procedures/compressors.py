"""The compressors by name: each turns a run into a compressed state, by letters of a chain.

Those of one shot are operators with tables of the profile: element masks are S, channels P with an importance,
quantizers Q. The procedures (ADMM, NetAdapt, ...) choose the tables and repeat the letters.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nacdeploy.experiments.config.vocabulary import compressor
from nacdeploy.experiments.procedures import admm, amc, annealing, by_sensitivity, lottery, netadapt
from nacdeploy.experiments.procedures.run import LEVEL, SLIM, Run, Shares, channel_shares, slim_shares, units
from nacdeploy.experiments.procedures.schedules import agp_sparsity
from nacdeploy.strategies.state import CompressionState

CHANNELS = ("l1", "l2", "fpgm", "apoz", "mean-activation", "taylor", SLIM)
_WEIGHTS = {"naive": "symmetric", "qat": "symmetric", "dorefa": "dorefa", "binary": "binary"}
_DEFAULT_BITS = 8
AGP_END = 10


def compress(name: str, run: Run) -> CompressionState:
    """Run a compressor, given its name in the vocabulary.

    Raises:
        UsageError: a layer that is named cannot be compressed this way.
        RefusedError: an operator does not apply to this network.
    """
    return COMPRESSORS[name](run)


def check(name: str, run: Run) -> None:
    """Refuse what no values could make work.

    Raises:
        UsageError: a layer is named whose outputs cannot be cut, or none of the selected ones has such.
    """
    own = LEVEL if name in (LEVEL, "agp", "lottery-ticket") else ""
    algorithm = run.setting("base_algo", run.setting("pruning_algorithm", own))
    if name == "amc":
        amc.check(run)
    if algorithm == LEVEL:
        units(run, LEVEL, dict.fromkeys(run.selection.layers, 0.0))
    if algorithm in CHANNELS or (compressor(name).cuts_channels and algorithm != LEVEL):
        channel_shares(run, run.start.network, dict.fromkeys(run.selection.layers, 0.0))


def _once(algorithm: str, run: Run) -> CompressionState:
    """Return one P or S, then F."""
    shares = units(run, algorithm).shares
    if algorithm == SLIM:
        shares = slim_shares(run, shares)
    return run.pruned(run.start, shares, algorithm, "F")


def _agp(run: Run) -> CompressionState:
    """Automated gradual pruning (Zhu & Gupta, 2017): S or P to a rising share, F for the epochs between, F at last."""
    algorithm, every = run.setting("pruning_algorithm", LEVEL), run.setting("frequency", 1)
    start, end = run.setting("start_epoch", 0), run.setting("end_epoch", AGP_END)
    state, before = run.start, dict.fromkeys(agp_shares(run, start), 0.0)
    for epoch in range(start, max(end, start + 1), every):
        now = agp_shares(run, epoch)
        rises = any(now[name] > before[name] for name in now)
        more = now if algorithm == LEVEL else {name: max(0.0, now[name] - before[name]) for name in now}
        state, before = run.pruned(state, more if rises else {}, algorithm, f"F(epochs={every})"), now
    return run.follow(state, "F")


def agp_shares(run: Run, epoch: int) -> Shares:
    """Return the share that gradual pruning asks of each unit in an epoch; between its steps, the last step's share."""
    start, every = run.setting("start_epoch", 0), run.setting("frequency", 1)
    first, algorithm = run.shares("initial_sparsity"), run.setting("pruning_algorithm", LEVEL)
    end = run.setting("end_epoch", AGP_END)
    at_step = epoch if epoch >= end else start + max(epoch - start, 0) // every * every
    return {
        name: agp_sparsity(
            at_step,
            initial_sparsity=min(first.get(name, 0.0), share),
            final_sparsity=share,
            start_epoch=start,
            end_epoch=end,
            frequency=every,
        )
        for name, share in units(run, algorithm, run.shares("final_sparsity")).shares.items()
    }


def _quantized(name: str, word: str, run: Run) -> CompressionState:
    return run.follow(run.start, word, {"quantize": quantize_table(name, run)})


def quantize_table(name: str, run: Run) -> dict[str, Any]:
    """Return the keys of `quantize` for the selected layers: the commonest precision as the rung, others by layer."""
    rungs = {layer: _rung(values) for layer, values in run.selection.layers.items()}
    common = Counter(rungs.values()).most_common(1)[0][0]
    if any("weight" not in values.get("quant_types", ("weight",)) for values in run.selection.layers.values()):
        run.say("quant_types: weights are quantized too, since no target multiplies integers by floats")
    alone = {n for n, values in run.selection.layers.items() if set(values.get("quant_types", ())) == {"weight"}}
    if alone:
        bits = " or ".join(sorted({rungs[name].partition("a")[2] for name in alone}))
        run.say(f"quant_types: activations get {bits} bits, since no target multiplies integers by floats")
    return {
        "ladder": [common],
        "layer_bits": {layer: rung for layer, rung in rungs.items() if rung != common},
        "exclude": [n for n in run.start.network.layers if n not in rungs],
        "min_channels": 1,
        "weights": _WEIGHTS[name],
    }


def _rung(values: Mapping[str, Any]) -> str:
    """Return the precision of a layer, such as `w4a8`: `quant_bits` is a number of weight bits, or one by
    quant_type."""
    bits = values.get("quant_bits", values.get("bits", _DEFAULT_BITS))
    if not isinstance(bits, dict):
        bits = {"weight": bits}
    activation = min((bits[kind] for kind in ("input", "output") if kind in bits), default=_DEFAULT_BITS)
    return f"w{max(bits.get('weight', _DEFAULT_BITS), 2)}a{activation}"  # binary weights have signs at any rung


COMPRESSORS: dict[str, Callable[[Run], CompressionState]] = {
    **{name: partial(_once, name) for name in (LEVEL, *CHANNELS)},
    "agp": _agp,
    "admm": admm.compress,
    "netadapt": netadapt.compress,
    "simulated-annealing": annealing.compress,
    "sensitivity": by_sensitivity.compress,
    "lottery-ticket": lottery.compress,
    "auto-compress": annealing.auto_compress,
    "amc": amc.compress,
    "naive": partial(_quantized, "naive", "Q"),
    **{name: partial(_quantized, name, "QF") for name in ("qat", "dorefa", "binary")},
}
