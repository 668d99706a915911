"""The speed of states against the FP32 baseline on the profile's target: measured whole, in turns with the baseline.

A network's time depends on its structure, not its values: each structure is exported and timed once, and the time is
kept in the run's folder, so that a resumed or repeated search times nothing again. The guard of `export` plays no part:
a search ranks the chain's own request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, RefusedError, UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.exporters.targets import pick
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.latencies.graphs import Graphs, timer_of
from nacdeploy.latencies.setting import Setting, check_setting, setting_of
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.state import CompressionState, structure_key

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
    """speeds.json: the times by structure, from the search and in full from its end."""

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
    models = {_BASELINE: graphs.model(session.baseline.network), "now": graphs.model(state.network)}
    speed = _timed(models, session, profile.bench.n_rounds)["now"]
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
        return len(self._read().search)

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
        return kept.search[key]

    def in_full(self, states: Sequence[CompressionState]) -> dict[str, Speed]:
        """The speeds of all `states` by structure, timed in turns with each other and the baseline, in all rounds of
        `bench`; a measurement that holds them all is kept."""
        wanted = {structure_key(state.network): state for state in states}
        with self._locked():
            kept = self._read()
            if not wanted.keys() <= kept.final.keys():
                found = self._timed(wanted, self._session.profile.bench.n_rounds)
                kept = replace(kept, final=found)
                records.write_json(self._path, kept)
        return {key: kept.final[key] for key in wanted}

    def _timed(self, states: Mapping[str, CompressionState], n_rounds: int) -> dict[str, Speed]:
        baseline = self._session.baseline.network
        self._baseline = self._baseline or self._graphs.model(baseline)
        models, own = {_BASELINE: self._baseline}, structure_key(baseline)
        for key, state in states.items():
            if key != own:
                models[key] = _candidate(state, self._graphs)
        speeds = _timed(models, self._session, n_rounds)
        return {key: speeds[_BASELINE if key == own else key] for key in states}

    def _read(self) -> SpeedFile:
        return records.read(SpeedFile, self._path) if self._path.is_file() else SpeedFile(self._setting)

    def _locked(self) -> FileLock:
        return FileLock(self._path.with_suffix(".lock"))


def _candidate(state: CompressionState, graphs: Graphs) -> bytes:
    try:
        return graphs.model(state.network)
    except NacdeployError as error:
        raise RefusedError(f"'{state.chain}' cannot be timed: {error}") from error


def _timed(models: Mapping[str, bytes], session: Session, n_rounds: int) -> dict[str, Speed]:
    """The speeds of serialised models timed in turns, on a GPU by its own time."""
    compared = timer_of(session.task, session.profile, n_rounds)(models, _BASELINE)
    ratios = compared.device_ratios or compared.ratios
    times = compared.device_latencies or compared.latencies
    base_ms = times[_BASELINE].p50_ms
    return {
        name: Speed(ratios[name].value, ratios[name].low, ratios[name].high, times[name].p50_ms, base_ms, n_rounds)
        for name in models
    }
