"""The plan of a transfer: its chain, changed where a budget asks for it, and what is told of it before it trains."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.forecasts.budget import Asked, Budget, factor_within
from nacdeploy.forecasts.forecast import Forecast, Found, forecast, is_worth, missed, source_of
from nacdeploy.forecasts.scaling import can_scale, scaled
from nacdeploy.forecasts.times import Watch
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.follow import decided


@dataclass(frozen=True)
class Wish:
    """The wishes of a transfer besides its strategy.

    Attributes:
        forecast: whether one is made; None: where the training takes clearly longer.
        adapt: whether parameters may change to hold the budget.
        max_drop: the most that may be lost, in the metric's own unit.
        target_ms: the most that one call may take.
        speedup: the same as a ratio to the baseline's time.
    """

    forecast: bool | None = None
    adapt: bool = False
    max_drop: float | None = None
    target_ms: float | None = None
    speedup: float | None = None

    def check(self, post_finetune: int = 0) -> None:
        """Refuse, before any work, wishes that do not agree.

        Raises:
            UsageError: says which.
        """
        given = {"max-drop": self.max_drop, "target-ms": self.target_ms, "speedup": self.speedup}
        named = [f"--{name}" for name, value in given.items() if value is not None]
        if self.target_ms is not None and self.speedup is not None:
            raise UsageError("--target-ms and --speedup each say how long a call may take: give one of them")
        if named and not self.adapt:
            raise UsageError(f"{named[0]} is what --adapt holds by changing parameters: give --adapt too")
        if self.adapt and not named:
            raise UsageError("--adapt holds a budget: give --max-drop, --target-ms or --speedup")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"--max-drop {self.max_drop:g} is no budget: give a number from 0")
        if self.target_ms is not None and not 0 < self.target_ms < math.inf:
            raise UsageError(f"--target-ms {self.target_ms:g} is no budget: give a number above 0")
        if self.speedup is not None and not 1 <= self.speedup < math.inf:
            raise UsageError(f"--speedup {self.speedup:g} is no budget: give a number from 1")
        if self.adapt and self.forecast is False:
            raise UsageError("--adapt goes by forecasts: leave --no-forecast away")
        if post_finetune and (self.adapt or self.forecast):
            raise UsageError("a forecast is of the chain's own letters: end it by an F in place of --post-finetune")


@dataclass(frozen=True)
class Plan:
    """The chain to apply, what is told of it, and the watch that its end is timed by."""

    chain: Chain
    told: Forecast | None = None
    watch: Watch | None = None

    def found(self, state: CompressionState, progress: Progress) -> Found | None:
        """Return what came out on the forecast's scales, and say how far the forecast was off."""
        if self.told is None:
            return None
        ms = self.watch(state.network) if self.watch is not None and self.told.latency_ms is not None else None
        cost = state.metrics.cost
        found = Found(cost.bytes, cost.expected_bitops, ms, state.drop, state.metrics.metric)
        progress.say(f"the forecast was off by {missed(self.told, found)}")
        return found


def planned(
    session: Session, chain: Chain, origin: Mapping[str, Any], wish: Wish, skip_refused: bool, progress: Progress
) -> Plan:
    """Return the plan of a transfer, and say it. `origin` is what a strategy file records of its run.

    Raises:
        UsageError: no parameters hold the budget.
        RefusedError: a letter does not apply, without `skip_refused`.
    """
    if not (wish.adapt or (is_worth(session, chain) if wish.forecast is None else wish.forecast)):
        return Plan(chain)
    watch, source = Watch(session, progress), source_of(origin, session.task.metric)

    def told(tried: Chain) -> Forecast:
        with progress.bar(f"rehearsing {tried}"):
            return forecast(session, tried, source, watch, skip_refused)

    found = _adapted(session, chain, wish, told, watch, skip_refused, progress) if wish.adapt else (chain, told(chain))
    progress.say(f"forecast: {found[1]}; {found[1].how}")
    return Plan(*found, watch)


def _adapted(
    session: Session, chain: Chain, wish: Wish, told: Any, watch: Watch, skip_refused: bool, progress: Progress
) -> tuple[Chain, Forecast]:
    profile = session.profile
    if not can_scale(chain, profile):
        raise UsageError(f"--adapt changes the share that P, S or D takes, and '{chain}' has no letter with one")

    def told_at(factor: float) -> Forecast | None:
        try:
            made: Forecast = told(scaled(chain, factor, profile))
        except RefusedError:
            if factor == 1.0:
                raise
            return None
        return made

    def ms_at(factor: float) -> float | None:
        network = session.baseline.network
        for _, state, refused in decided(
            scaled(chain, factor, profile), session.baseline, session.task, profile, skip_refused
        ):
            if refused is not None and not skip_refused:
                return None
            network = state.network
        return watch(network)

    budget = Budget(wish.max_drop, _target_ms(session, wish, watch))
    factor, forecast_of_it = factor_within(budget, Asked(told_at, ms_at))
    answer = scaled(chain, factor, profile)
    progress.say(f"adapted: {chain} -> {answer}" if answer != chain else f"'{chain}' holds the budget as it is")
    return answer, forecast_of_it


def _target_ms(session: Session, wish: Wish, watch: Watch) -> float | None:
    """Return the time that may be taken, and check that it can be told and is less than the baseline's."""
    if wish.target_ms is None and wish.speedup is None:
        return None
    base_ms = watch(session.baseline.network)
    if base_ms is None:
        raise UsageError("no time is told here, and none can be held: leave --target-ms and --speedup away")
    return wish.target_ms if wish.target_ms is not None else base_ms / (wish.speedup or 1.0)
