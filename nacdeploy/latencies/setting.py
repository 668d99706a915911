"""The place and method of times: which machine and runtime take them, and what makes a runner there."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import latency, records
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.targets import Target, gpu
from nacdeploy.exporters.targets.ort import runner as onnx
from nacdeploy.exporters.targets.runtime import Maker, runtime_of
from nacdeploy.profile import Profile


@dataclass(frozen=True)
class Setting:
    """The place and method of times: times of different settings are never compared."""

    machine: str
    target: str
    runtime: str
    threads: int
    batch_size: int


def setting_of(profile: Profile) -> Setting:
    """Return the setting in which states are timed here."""
    target, runtime, machine = profile.target, onnx.version(), latency.machine()
    if maker_here(target, profile) is not None:
        runtime = runtime_of(target).version()
        machine += f", {gpu.present_capability()}" if target.on_gpu else ""
    return Setting(machine, target.name, runtime, profile.bench.threads, profile.bench.batch_sizes[0])


def check_setting(theirs: Setting, ours: Setting, path: Path, remedy: str) -> None:
    """Refuse times that were taken elsewhere.

    Raises:
        UsageError: names what differs.
    """
    was, now = records.to_data(theirs), records.to_data(ours)
    if differs := [f"{key} was '{was[key]}' and is '{now[key]}'" for key in now if was[key] != now[key]]:
        raise UsageError(f"{path} was measured elsewhere: {', '.join(differs)}; {remedy}")


def maker_here(target: Target, profile: Profile) -> Maker | None:
    """Return a maker of runners as on the profile's target, or None if the target is not here."""
    runtime = runtime_of(target)
    return None if runtime.missing(profile.export) else runtime.maker(profile.export, profile.bench.threads)
