"""The figure "speed" of a search or transfer, measured on the profile's GPU where it is here."""

from nacdeploy.jobs.session import Session
from nacdeploy.progress import Progress
from nacdeploy.runners import bench, pick
from nacdeploy.strategies.state import CompressionState


def measured(state: CompressionState, session: Session, progress: Progress) -> float:
    """How many times faster than the baseline a state runs; says so, and where it was measured if not on the target."""
    profile = session.profile
    ratio = bench.speed_ratio(state, session.baseline, profile.bench, profile.export.opset, profile)
    progress.say(f"{state.chain}: {ratio:.2f}x measured (a fresh run may differ)")
    return ratio


def say_where(session: Session, progress: Progress) -> None:
    """A note where speed is not measured on the profile's own target."""
    profile = session.profile
    if note := pick.speed_note(profile.target, profile.export.compute_capabilities):
        progress.say(f"note: {note}")
