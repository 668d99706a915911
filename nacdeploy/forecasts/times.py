"""The times of networks before and after a transfer: each beside the baseline, in turns, on the target that is here."""

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Progress
from nacdeploy.latencies.clock import N_ROUNDS, TableClock
from nacdeploy.latencies.graphs import Graphs, timer_of
from nacdeploy.latencies.setting import maker_here
from nacdeploy.network.network import Network
from nacdeploy.sessions.session import Session
from nacdeploy.trials.time_budget import networks_ms

_BASELINE, _NOW = "baseline", "now"


class Watch:
    """Times of networks in ms. The baseline's is that of its first measurement, so that a machine that slows down
    changes nothing; each shape is exported once."""

    def __init__(self, session: Session, progress: Progress) -> None:
        self._session, self._progress = session, progress
        self._graphs = Graphs(session.profile.export.opset)
        self._baseline_ms: float | None = None
        self._is_silent = False

    @property
    def baseline_ms(self) -> float | None:
        """The baseline's time, once something was timed."""
        return self._baseline_ms

    def __call__(self, network: Network) -> float | None:
        """Return the time of one call; None, said once, if it cannot be told here."""
        if self._is_silent:
            return None
        try:
            return self._ms(network)
        except NacdeployError as error:
            self._is_silent = True
            self._progress.say(f"the forecast has no time: {error}")
            return None

    def _ms(self, network: Network) -> float:
        clock, baseline = self._session.task.clock, self._session.baseline.network
        if isinstance(clock, TableClock) and not clock.is_here:
            self._baseline_ms, now_ms = networks_ms(clock, [baseline, network])
            return now_ms
        profile = self._session.profile
        if maker_here(profile.target, profile) is None and not profile.target.timed_by_onnx_runtime:
            raise NacdeployError(f"target '{profile.target.name}' is not here; --latency-table takes one of it")
        models = {_BASELINE: self._graphs.model(baseline), _NOW: self._graphs.model(network)}
        found = timer_of(self._session.task, profile, N_ROUNDS, fastest=True)(models, _BASELINE)
        on_device, ratios = found.device_latencies, found.device_ratios or found.ratios
        base_ms = on_device[_BASELINE].p50_ms if on_device else found.turn_ms[_BASELINE]
        self._baseline_ms = self._baseline_ms or base_ms
        return self._baseline_ms / ratios[_NOW].value
