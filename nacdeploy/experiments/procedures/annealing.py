"""Simulated annealing over per-layer shares, and AutoCompress: annealing and ADMM in turns (Liu et al., 2020)."""

import math
import random
from collections.abc import Callable, Mapping

from nacdeploy.base.errors import RefusedError
from nacdeploy.experiments.procedures import admm
from nacdeploy.experiments.procedures.allocation import shifted_to
from nacdeploy.experiments.procedures.run import LEVEL, Run, Shares, units
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import training

START_TEMPERATURE, STOP_TEMPERATURE, COOLING, PERTURBATION = 100.0, 20.0, 0.9, 0.35
N_ROUNDS, N_ADMM_ITERATIONS, N_ADMM_EPOCHS = 3, 30, 5


def compress(run: Run) -> CompressionState:
    """Return the shares that annealing finds, in one S or P, then F."""
    algorithm = run.setting("base_algo", "l1")
    found = units(run, algorithm)
    shares = _annealed_on(run, run.start, found.sizes, found.target, algorithm, "annealing")
    return run.pruned(run.start, shares, algorithm, "F")


def auto_compress(run: Run) -> CompressionState:
    """Rounds towards the target: annealing says how much each layer gives, ADMM trains for it, S or P cuts, F.

    After k of n rounds the share 1 - (1 - s)^(k/n) of the weights is gone, each round taking the same part of what is
    left.
    """
    algorithm, n_rounds = run.setting("base_algo", "l1"), run.setting("num_iterations", N_ROUNDS)
    n_iterations = run.setting("admm_num_iterations", N_ADMM_ITERATIONS)
    n_epochs = run.setting("admm_training_epochs", N_ADMM_EPOCHS)
    found = units(run, algorithm)
    state, gone = run.start, dict.fromkeys(found.shares, 0.0)
    for k in range(1, n_rounds + 1):
        part = 1 - (1 - found.target) ** (1 / n_rounds)
        now = _annealed_on(run, state, found.sizes, part, algorithm, f"round {k}", gone)
        left = {name: 1 - gone[name] for name in gone}
        more = {name: now[name] * left[name] for name in now}  # of the baseline's
        gone = {name: gone[name] + more[name] for name in gone}
        state = admm.regularised(run, state, gone if algorithm == LEVEL else now, algorithm, n_iterations, n_epochs)
        state = run.pruned(state, gone if algorithm == LEVEL else more, algorithm, "F")
    return state


def _annealed_on(
    run: Run,
    state: CompressionState,
    sizes: Mapping[str, int],
    target: float,
    algorithm: str,
    purpose: str,
    gone: Mapping[str, float] | None = None,
) -> Shares:
    """Shares of what is left of each unit, annealed on the quality on validation right after the cut."""
    trial, gone = run.quietly(), gone or dict.fromkeys(sizes, 0.0)

    def quality(shares: Mapping[str, float]) -> float:
        of_all = {name: share * (1 - gone[name]) for name, share in shares.items()}
        if algorithm == LEVEL:
            of_all = {name: gone[name] + share for name, share in of_all.items()}
        try:
            return trial.pruned(state, of_all, algorithm).metrics.quality
        except RefusedError:
            return -1.0

    rng = random.Random(training.seed_of(run.profile.seed, state.key, purpose))
    return annealed(
        quality,
        sizes,
        target,
        rng,
        start=run.setting("start_temperature", START_TEMPERATURE),
        stop=run.setting("stop_temperature", STOP_TEMPERATURE),
        cooling=run.setting("cool_down_rate", COOLING),
        perturbation=run.setting("perturbation_magnitude", PERTURBATION),
    )


def annealed(
    quality: Callable[[Mapping[str, float]], float],
    sizes: Mapping[str, int],
    target: float,
    rng: random.Random,
    *,
    start: float,
    stop: float,
    cooling: float,
    perturbation: float,
) -> Shares:
    """Return the best shares seen whose mean over `sizes` is `target`.

    Perturbations shrink with the temperature T. A loss of d points is accepted with probability exp(-d start / T): at
    the start one point in e (Liu et al., 2020, section 3.2, whose scale is left open).
    """
    now = shifted_to(dict.fromkeys(sizes, target), sizes, target)
    value = best_value = quality(now)
    best, temperature = now, start
    while temperature > stop:
        magnitude = perturbation * temperature / start
        moved = {name: share + rng.uniform(-magnitude, magnitude) for name, share in now.items()}
        candidate = shifted_to(moved, sizes, target)
        found = quality(candidate)
        if found >= value or rng.random() < math.exp(-100 * (value - found) * start / temperature):
            now, value = candidate, found
        if value > best_value:
            best, best_value = now, value
        temperature *= cooling
    return best
