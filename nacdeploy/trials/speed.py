"""The speed of states against the FP32 baseline on the profile's target: measured whole, in turns with the baseline.

A network's time depends on its structure, not its values: each structure is exported and timed once, and the time is
kept in the run's folder, so that a resumed or repeated search times nothing again. The guard of `export` plays no part:
a search ranks the chain's own request.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, RefusedError, UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.exporters.targets import pick
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.exporters.targets.timing import Timed
from nacdeploy.latencies.graphs import Graphs, timer_of
from nacdeploy.latencies.setting import Setting, check_setting, setting_of
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.state import CompressionState, structure_key
from nacdeploy.trials.ways import mean, timed_key, way_keys, ways_of

FILE = "speeds.json"
_BASELINE = "baseline"


@dataclass(frozen=True)
class Speed:
    """Baseline time over a network's time (more is better), its 95 % interval (None: estimated), and both medians over
    `n_rounds` interleaved rounds."""

    ratio: float
    low: float | None
    high: float | None
    p50_ms: float
    baseline_ms: float
    n_rounds: int


@dataclass(frozen=True)
class SpeedFile:
    """speeds.json: the times by structure, from the search and in full from its end; behind a slash those of the ways
    out of a structure with exits."""

    setting: Setting
    search: dict[str, Speed] = field(default_factory=dict)
    final: dict[str, Speed] = field(default_factory=dict)


def check_target(profile: Profile) -> None:
    """Refuse, before any work, a search that ranks by times on a target that is not here.

    Raises:
        UsageError: nothing here times this target.
        MissingExtraError: its runtime is not installed.
        NacdeployError: its GPU is not present.
    """
    table, target = profile.search, profile.target
    if not table.on_speed or (table.is_timed and table.latency_table is not None):
        return
    instead = (
        "set target = 'ort' to rank by ONNX Runtime on this CPU, or search.figure = 'bitops' with objective 'budget'"
    )
    if target.times_instead:
        raise UsageError(
            f"a search on latency does not time target '{target.name}': set target = '{target.times_instead}', "
            f"or {instead}"
        )
    if table.latency == "table" and not target.timed_by_onnx_runtime:
        raise UsageError(
            f"search.latency = 'table' times layers in ONNX Runtime, not for target '{target.name}': "
            "set search.latency = 'measured', or target = 'ort'"
        )
    runtime = runtime_of(target)
    if missing := runtime.missing(profile.export):
        raise NacdeployError(
            f"a search on latency times every candidate on target '{target.name}', and {missing}: search where it is, "
            f"{instead}"
        )
    runtime.version()


def measured(state: CompressionState, session: Session, progress: Progress) -> Speed:
    """Measure in full how much faster than the baseline a state runs, and say it, and where the profile's own target
    is not the one that is timed."""
    graphs, profile = Graphs(session.profile.export.opset), session.profile
    if note := pick.speed_note(runtime_of(profile.target), profile.export):
        progress.say(f"note: {note}")
    models: dict[str, Timed] = {_BASELINE: graphs.model(session.baseline.network)}
    models |= _parts(state, "now", graphs, session)
    speed = _expected(_timed(models, session, profile.bench.n_rounds), "now", state)
    progress.say(f"{state.chain}: {speed.ratio:.2f}x measured (a fresh run may differ)")
    return speed


class Speeds:
    """The speeds of the states of one search. One process times at a time: what runs beside would be timed too."""

    def __init__(self, session: Session, place: Path) -> None:
        """`place` is the run's folder.

        Raises:
            UsageError: it holds times of another machine or setting.
        """
        self._session, self._path = session, place / FILE
        self._setting = setting_of(session.profile)
        self._graphs = Graphs(session.profile.export.opset)
        self._baseline: bytes | None = None
        if self._path.is_file():
            check_setting(self._read().setting, self._setting, self._path, "choose another --out")

    @property
    def setting(self) -> Setting:
        return self._setting

    @property
    def n_kept(self) -> int:
        """The structures that were timed in the search."""
        return sum("/" not in key for key in self._read().search)

    def __call__(self, state: CompressionState) -> Speed:
        """The speed of a state, timed now where its structure is new.

        Raises:
            RefusedError: this network cannot be exported or run.
            NacdeployError: the baseline cannot.
        """
        key, table = structure_key(state.network), self._session.profile.search
        with self._locked():
            kept = self._read()
            if key not in kept.search:
                found = self._timed({key: state}, table.n_latency_rounds)
                kept = replace(kept, search={**kept.search, **found})
                records.write_json(self._path, kept)
        return _expected(kept.search, key, state)

    def in_full(self, states: Sequence[CompressionState]) -> dict[str, Speed]:
        """The speeds of all `states` by `timed_key`, timed in turns with each other and the baseline, in all rounds of
        `bench`; a measurement that holds them all is kept."""
        wanted = {structure_key(state.network): state for state in states}
        with self._locked():
            kept = self._read()
            if not wanted.keys() <= kept.final.keys():
                found = self._timed(wanted, self._session.profile.bench.n_rounds)
                kept = replace(kept, final=found)
                records.write_json(self._path, kept)
        return {timed_key(each): _expected(kept.final, structure_key(each.network), each) for each in states}

    def _timed(self, states: Mapping[str, CompressionState], n_rounds: int) -> dict[str, Speed]:
        baseline = self._session.baseline.network
        self._baseline = self._baseline or self._graphs.model(baseline)
        models: dict[str, Timed] = {_BASELINE: self._baseline}
        own = structure_key(baseline)
        for key, state in states.items():
            if key != own:
                models |= _parts(state, key, self._graphs, self._session)
        speeds = _timed(models, self._session, n_rounds)
        found = {key: speed for key, speed in speeds.items() if key != _BASELINE}
        return found | ({own: speeds[_BASELINE]} if own in states else {})

    def _read(self) -> SpeedFile:
        return records.read(SpeedFile, self._path) if self._path.is_file() else SpeedFile(self._setting)

    def _locked(self) -> FileLock:
        return FileLock(self._path.with_suffix(".lock"))


def _parts(state: CompressionState, key: str, graphs: Graphs, session: Session) -> dict[str, Timed]:
    """Return what is timed of a state: its graph, and the ways out of it."""
    graph = _candidate(state, graphs)
    n_exits, target = len(state.network.exits), session.profile.target
    return {key: graph, **ways_of(graph, n_exits, key, target, session.task.metric)}


def _expected(speeds: Mapping[str, Speed], key: str, state: CompressionState) -> Speed:
    """Return the speed of a state: of its whole graph, or that expected of its ways out, if that is faster."""
    whole, keys = speeds[key], way_keys(key, len(state.network.exits))
    if not state.network.exits or keys[0] not in speeds:
        return whole
    shares = state.metrics.exit_fractions

    def over(of: Callable[[Speed], float | None]) -> float:
        return 1 / mean({name: 1 / (of(speeds[name]) or speeds[name].ratio) for name in keys}, keys, shares)

    ratio, low, high = over(lambda s: s.ratio), over(lambda s: s.low), over(lambda s: s.high)
    p50_ms = mean({name: speeds[name].p50_ms for name in keys}, keys, shares)
    expected = Speed(ratio, low, high, p50_ms, whole.baseline_ms, whole.n_rounds)
    return expected if expected.ratio > whole.ratio else whole


def _candidate(state: CompressionState, graphs: Graphs) -> bytes:
    try:
        return graphs.model(state.network)
    except NacdeployError as error:
        raise RefusedError(f"'{state.chain}' cannot be timed: {error}") from error


def _timed(models: Mapping[str, Timed], session: Session, n_rounds: int) -> dict[str, Speed]:
    """The speeds of serialised models timed in turns, on a GPU by its own time."""
    compared = timer_of(session.task, session.profile, n_rounds)(models, _BASELINE)
    ratios = compared.device_ratios or compared.ratios
    times = compared.device_latencies or compared.latencies
    base_ms = times[_BASELINE].p50_ms
    return {
        name: Speed(ratios[name].value, ratios[name].low, ratios[name].high, times[name].p50_ms, base_ms, n_rounds)
        for name in models
    }
