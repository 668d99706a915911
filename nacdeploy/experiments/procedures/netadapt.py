"""NetAdapt: small steps down in MACs, each by the layer that loses least after a short training (Yang et al., 2018)."""

import math
from collections.abc import Iterator

from nacdeploy.base.errors import RefusedError
from nacdeploy.experiments.procedures.allocation import MacsModel
from nacdeploy.experiments.procedures.run import Run, units
from nacdeploy.strategies.state import CompressionState
from nacdeploy.surgery.channels import channel_groups

STEP, SHORT_EPOCHS = 0.05, 1


def compress(run: Run) -> CompressionState:
    """P by P until the asked share of the network's MACs is gone, a short F after each, F at last.

    With several shares asked, the mean over the weights of the layers counts. Ends early where no layer can give more.
    """
    algorithm = run.setting("base_algo", "l1")
    found = units(run, algorithm)
    full = run.start.metrics.cost.macs
    goal, step = full * (1 - found.target), full * run.setting("sparsity_per_iteration", STEP)
    state, roots = run.start, set(found.shares)
    while state.metrics.cost.macs > goal:
        candidates = list(_candidates(run, state, roots, algorithm, max(state.metrics.cost.macs - step, goal)))
        if not candidates:
            run.say(f"no layer can give more: {100 * (1 - state.metrics.cost.macs / full):.1f} % of the MACs are gone")
            break
        state = max(candidates, key=lambda candidate: candidate.metrics.quality)
        run.report(state.metrics.quality)
    return run.follow(state, "F")


def _candidates(
    run: Run, state: CompressionState, roots: set[str], algorithm: str, budget: float
) -> Iterator[CompressionState]:
    """Cut each group alone until the MACs are within the budget, and train it for a short time.

    A group that cannot give that much gives all it can, if anything.
    """
    epochs = run.setting("short_term_epochs", SHORT_EPOCHS)
    model, multiple = MacsModel.of(state.network), run.setting("channel_round", 1)
    for group in channel_groups.groups(state.network):
        n_gone = _n_gone(model, group.root, budget, group.most(multiple), group.unit(multiple))
        if group.root not in roots or not n_gone:
            continue
        share = n_gone / _width(run, group.root)
        try:
            yield run.quietly().pruned(state, {group.root: share}, algorithm, f"F(epochs={epochs})" if epochs else "")
        except RefusedError:
            continue


def _n_gone(model: MacsModel, root: str, budget: float, most: int, unit: int) -> int:
    width = model.widths[root]
    for n_gone in range(unit, most + 1, unit):
        if model.total({root: n_gone / width}) <= budget:
            return n_gone
    return most if model.total({root: most / width}) < math.inf else 0


def _width(run: Run, root: str) -> int:
    """Return the baseline's channels, which P's shares are of."""
    return next(g.n_channels for g in channel_groups.groups(run.start.network) if g.root == root)
