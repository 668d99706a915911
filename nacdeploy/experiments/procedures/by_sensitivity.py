"""Sensitivity-driven pruning: layers give in proportion to what they can lose (Han et al., 2015, section 3)."""

from collections.abc import Mapping, Sequence

from nacdeploy.base.errors import RefusedError
from nacdeploy.experiments.procedures.allocation import MOST, scaled_to
from nacdeploy.experiments.procedures.run import LEVEL, Run, Shares, units
from nacdeploy.strategies.state import CompressionState

STEP, THRESHOLD = 0.1, 0.05
RATIOS = tuple(n / 10 for n in range(1, 10))
Table = dict[str, dict[float, float]]


def compress(run: Run) -> CompressionState:
    """Step by step to the target: measure every layer alone, share the step out by what each can lose, S or P, F."""
    algorithm = run.setting("base_algo", "l1")
    found = units(run, algorithm)
    step, threshold = run.setting("sparsity_per_iter", STEP), run.setting("acc_drop_threshold", THRESHOLD)
    state, gone, done = run.start, dict.fromkeys(found.shares, 0.0), 0.0
    while done < found.target - 1e-9:
        part = min(step, found.target - done)
        table = _sensitivities(run, state, gone, algorithm, run.setting("ratios", RATIOS), threshold)
        tolerated = tolerances(table, state.metrics.quality, threshold)
        room = {name: share * (1 - gone[name]) for name, share in tolerated.items()}
        more = scaled_to(room, found.sizes, part, run.setting("max_sparsity_per_iter", MOST))
        more = {name: min(share, MOST - gone[name]) for name, share in more.items()}
        gone, done = {name: gone[name] + more[name] for name in gone}, done + part
        state = run.pruned(state, gone if algorithm == LEVEL else more, algorithm, "F")
    return state


def _sensitivities(
    run: Run,
    state: CompressionState,
    gone: Mapping[str, float],
    algorithm: str,
    ratios: Sequence[float],
    threshold: float,
) -> Table:
    """Quality on validation by unit and share of what is left of it, each unit alone, no training; a unit's
    row ends with the first share that loses more than `threshold`."""
    trial, table = run.quietly(), Table()
    for name in gone:
        table[name] = {}
        for ratio in sorted(ratios):
            share = ratio * (1 - gone[name])
            asked = {**gone, name: gone[name] + share} if algorithm == LEVEL else {name: share}
            try:
                quality = trial.pruned(state, asked, algorithm).metrics.quality
            except RefusedError:
                break
            table[name][ratio] = quality
            if state.metrics.quality - quality > threshold:
                break
    return table


def tolerances(table: Mapping[str, Mapping[float, float]], quality: float, threshold: float) -> Shares:
    """Return the largest share of each unit that loses at most `threshold` of `quality`; where none does, half of the
    least share tried, so that every unit gives something."""
    found = {}
    for name, row in table.items():
        harmless = [ratio for ratio, reached in row.items() if quality - reached <= threshold]
        found[name] = max(harmless, default=min(row, default=0.0) / 2)
    return found
