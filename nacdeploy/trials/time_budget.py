"""A time as the budget of a search: what of the settings follows from it, and the times of its states.

P leaves the time that is asked for, F may follow any letter, and the answer is the network of best quality within the
time. Every time is one of the session's clock, from the same table that P decides by.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.latencies.clock import N_ROUNDS, TableClock
from nacdeploy.latencies.layers import layers_of
from nacdeploy.latencies.setting import Setting
from nacdeploy.network.network import Network
from nacdeploy.sessions import measured
from nacdeploy.sessions.session import Session, timed
from nacdeploy.strategies.operators.prune import by_time, layer_times
from nacdeploy.strategies.operators.prune.operator import rule_to_come
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.state import CompressionState, structure_key
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.surgery.depth import worth
from nacdeploy.trials.speed import Speed
from nacdeploy.trials.ways import timed_key

SOURCE = "the time budget"
_MARGIN = 0.985  # of the time: P aims a little below it, so that another measurement of its network is within it too
_EVERYTHING = 100.0  # points


@dataclass(frozen=True)
class ClockSpeeds:
    """The speeds of states by the session's clock, also where it reads the table of another machine."""

    clock: TableClock
    baseline: Network

    def __call__(self, state: CompressionState) -> Speed:
        """Return the speed of a state."""
        base_ms, now_ms = networks_ms(self.clock, [self.baseline, state.network])
        return Speed(base_ms / now_ms, None, None, now_ms, base_ms, N_ROUNDS)

    @property
    def networks_ms_of_baseline(self) -> float:
        """The time of the FP32 baseline."""
        return networks_ms(self.clock, [self.baseline])[0]

    @property
    def setting(self) -> Setting:
        """The place of the times."""
        table = self.clock.times.table
        assert table is not None
        return table.setting

    @property
    def n_kept(self) -> int:
        """The networks that the table holds."""
        table = self.clock.times.table
        return len(table.networks) if table else 0

    def in_full(self, states: Sequence[CompressionState]) -> dict[str, Speed]:
        """Return the speeds of states by `timed_key`; exits count as the whole graph that they are outputs of."""
        return {timed_key(state): self(state) for state in states}


def clock_speeds(session: Session) -> ClockSpeeds:
    """Return the speeds of a session's states by its clock."""
    clock = session.task.clock
    assert isinstance(clock, TableClock)
    return ClockSpeeds(clock, session.baseline.network)


def networks_ms(clock: TableClock, networks: Sequence[Network]) -> tuple[float, ...]:
    """Return the times of networks: measured, or by a table of another machine as the sum of their layers fitted."""
    if clock.is_here:
        return clock.networks_ms(networks)
    return tuple(_by_table(clock, network) for network in networks)


def _by_table(clock: TableClock, network: Network) -> float:
    precision = by_time.INT8 if network.plan.weight_bits else by_time.FLOAT32
    kept = clock.kept(structure_key(network), precision)
    if not kept:
        raise UsageError(f"{clock.carried} holds no whole network in {precision}: write it for this network")
    sum_ms = clock.times.sum_ms(layers_of(network)) - clock.times.call_ms
    return layer_times.fitted(kept).whole_ms(sum_ms)


def settled(session: Session, progress: Progress) -> Session:
    """Return the session with the settings that follow from its time; the same one if it has none or they are settled.

    Raises:
        UsageError: the time is out of reach; the range is named.
        NacdeployError: the target cannot be timed here, or the machine is too noisy.
    """
    table, prune = session.profile.search, session.profile.of(PruneTable)
    if not table.is_timed or (table.speedup is not None and prune.target_ms is not None):
        return session
    if table.latency_table is not None:
        session = _with(session, {"prune": {"latency_table": table.latency_table}})
    clock = session.task.clock
    assert isinstance(clock, TableClock)
    base_ms = networks_ms(clock, [session.baseline.network])[0]
    target_ms = table.target_ms or base_ms / (table.speedup or 1.0)
    precision = _precision(session, clock, base_ms, progress)
    _check_reach(session, clock, base_ms, target_ms, precision)
    progress.say(
        f"the answer may take {target_ms:.4g} ms, {base_ms / target_ms:.2f} times as fast as the baseline "
        f"({base_ms:.4g} ms), by {clock.where}"
    )
    return _with(session, _derived(session, base_ms, target_ms, precision))


def has_q(session: Session) -> bool:
    """Tell whether the chains of a session's search may be quantized."""
    return "Q" in parsed(session.profile.search.alphabet).letters


def _precision(session: Session, clock: TableClock, base_ms: float, progress: Progress) -> str:
    """Return the precision in which networks are deployed: integers if the alphabet has a Q and the network is faster
    in them than in its `base_ms`."""
    if not has_q(session):
        return by_time.FLOAT32
    now_ms = networks_ms(clock, [by_time.deployed(session.baseline.network, rule_to_come(session.profile))])[0]
    if now_ms < base_ms:
        return by_time.INT8
    progress.say(
        f"integers are no faster here ({now_ms:.4g} ms, {base_ms:.4g} ms in float): P leaves a time in float, and "
        "dense networks stay in float"
    )
    return by_time.FLOAT32


def _derived(session: Session, base_ms: float, target_ms: float, precision: str) -> dict[str, Any]:
    """Return the keys that follow from a time; a key that a source names keeps its value."""
    open_keys = {
        "search.max_drop": _EVERYTHING * session.task.metric.point(session.baseline.metrics.chance),
        "search.alphabet": "FPQ",
        "prune.importance": "fisher",
        "search.rules.by_drop": False,
    }
    named = {key for key, values in session.settings.given.items() if values}
    free = {key: value for key, value in open_keys.items() if key not in named}
    search, prune = (
        {key.partition(".")[2]: value for key, value in free.items() if key.startswith(name)}
        for name in ("search", "prune")
    )
    if "rules.by_drop" in search:
        search["rules"] = {**session.profile.search.rules.model_dump(), "by_drop": search.pop("rules.by_drop")}
    if has_q(session):  # without one, the precision that a source names stays
        prune["runs_as"] = by_time.INT8 if precision == by_time.INT8 else "now"
    return {
        "search": {**search, "speedup": base_ms / target_ms},
        "prune": {**prune, "target_ms": _MARGIN * target_ms},
    }


def _check_reach(session: Session, clock: TableClock, base_ms: float, target_ms: float, precision: str) -> None:
    least_ms = _least_ms(session, clock, precision)
    if not least_ms <= target_ms < base_ms:
        raise UsageError(
            f"{target_ms:.4g} ms ({base_ms / target_ms:.2f}x) is out of reach: the FP32 baseline takes {base_ms:.4g} "
            f"ms, and the fastest network that P and Q make of it {least_ms:.4g} ms; a time between them, or a "
            f"speedup of 1 to {base_ms / least_ms:.2f}, can be asked for"
        )


def _least_ms(session: Session, clock: TableClock, precision: str) -> float:
    """Return the time of the fastest network that the alphabet's letters make of the baseline in a precision."""
    network, letters = session.baseline.network, parsed(session.profile.search.alphabet).letters
    runs = by_time.deployed(network, rule_to_come(session.profile) if precision == by_time.INT8 else None)
    found = channel_groups.groups(network) if "P" in letters else ()
    if not found:
        return networks_ms(clock, [runs])[0]
    table = session.profile.of(PruneTable)
    multiple = measured.SMALLEST_BLOCK if table.multiple == "target" else table.multiple
    gone = worth.droppable(network, found, table.importance) if table.may_drop else ()
    return by_time.least_ms(runs, found, int(multiple), clock, gone)


def _with(session: Session, tables: dict[str, Any]) -> Session:
    settings, clock = session.settings.over((SOURCE, tables)), session.task.clock
    assert isinstance(clock, TableClock)
    return replace(session, settings=settings, task=timed(session.task, settings.profile, clock.root))
