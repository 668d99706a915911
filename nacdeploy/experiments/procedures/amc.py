"""Per-layer ratios by search under a MACs budget, as in AMC (He et al., 2018), with TPE in place of its agent."""

from collections.abc import Mapping

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.experiments.config.space import Space, is_space
from nacdeploy.experiments.driver import proposers
from nacdeploy.experiments.procedures.allocation import MacsModel
from nacdeploy.experiments.procedures.run import Run, Shares, units
from nacdeploy.strategies.state import CompressionState

FLOPS_RATIO, LOWEST, HIGHEST, N_EPISODES = 0.5, 0.2, 1.0, 30
_N_HALVINGS = 40
_MOST = 0.999  # of a unit's channels that go: its last one stays


def compress(run: Run) -> CompressionState:
    """Return the shares to keep, each in [lbound, rbound], that answer best right after the cut, with at most
    `flops_ratio` of the MACs left; then P and F."""
    algorithm = run.setting("base_algo", "l1")
    roots = tuple(units(run, algorithm, dict.fromkeys(run.selection.layers, 0.0)).shares)
    lowest, highest = run.setting("lbound", LOWEST), run.setting("rbound", HIGHEST)
    check(run)
    model, trial = MacsModel.of(run.start.network), run.quietly()
    budget = run.setting("flops_ratio", FLOPS_RATIO) * model.total({})
    spaces = tuple(Space(root, "float", (lowest, highest)) for root in roots)
    most = min(_MOST, 1 - lowest)
    best, best_quality = dict.fromkeys(roots, 0.0), -1.0
    with proposers.in_memory("tpe", spaces, "max", run.profile.seed) as study:
        for _ in range(run.setting("train_episode", N_EPISODES)):
            asked = study.ask()
            gone = {root: min(most, 1 - asked.proposal[root]) for root in roots}
            gone = within_budget(gone, model, budget, most)
            try:
                quality = trial.pruned(run.start, gone, algorithm).metrics.quality
            except RefusedError:
                quality = 0.0
            study.tell(asked, quality)
            if quality > best_quality:
                best, best_quality = gone, quality
    if model.total(best) > budget * 1.01:
        run.say(f"with lbound {lowest:g} at least {model.total(best) / model.total({}):.2f} of the MACs are left")
    return run.pruned(run.start, best, algorithm, "F")


def check(run: Run) -> None:
    """Refuse bounds between which nothing lies, unless they are still to be proposed.

    Raises:
        UsageError: the lower one is above the upper one.
    """
    lowest, highest = run.setting("lbound", LOWEST), run.setting("rbound", HIGHEST)
    if not is_space(lowest) and not is_space(highest) and lowest > highest:
        raise UsageError(f"compression: lbound {lowest:g} is above rbound {highest:g}")


def within_budget(gone: Mapping[str, float], model: MacsModel, budget: float, most: float) -> Shares:
    """Return the shares that go, raised by one amount until the MACs are within the budget, none above `most`."""

    def raised(by: float) -> Shares:
        return {root: min(most, share + by) for root, share in gone.items()}

    if model.total(gone) <= budget:
        return dict(gone)
    low, high = 0.0, 1.0
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if model.total(raised(middle)) > budget else (low, middle)
    return raised(high)
