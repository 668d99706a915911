"""The table of latencies of one network, as `analyze` writes it: layers by width, in floats and in integers."""

from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.progress import Progress
from nacdeploy.latencies.clock import TableClock
from nacdeploy.network.network import Network
from nacdeploy.sessions import measured
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.operator import rule_to_come
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.surgery.channels import channel_groups


def write_table(session: Session, path: Path, progress: Progress) -> None:
    """Measure what P asks for on the baseline, as it is and quantized, and write it to a file.

    Raises:
        UsageError: the session itself uses a table of another machine.
        NacdeployError: the target cannot be timed here, or the machine is too noisy.
    """
    clock, watch = session.task.clock, Stopwatch()
    assert isinstance(clock, TableClock)
    if not clock.is_here:
        raise UsageError("prune.latency_table names a table of another machine: leave it out to measure one here")
    network = session.baseline.network
    found = channel_groups.groups(network)
    with progress.bar("measuring layers") as bar:
        for done, (name, runs) in enumerate(_precisions(session)):
            bar.update(done, 2, name)
            multiple = session.profile.of(PruneTable).multiple
            if multiple == "target":
                multiple = measured.unit(session.profile.target, name == by_time.INT8, progress)
            times, fit = by_time.surveyed(runs, found, multiple, clock)
            before_ms = clock.networks_ms([runs])[0]
            off = fit.whole_ms(times.sum_ms(times.now)) / before_ms - 1
            progress.say(f"{name}: {before_ms:.4g} ms whole, the sum of its layers fitted is off by {100 * off:+.1f} %")
    table = clock.times.table
    assert table is not None
    records.write_json(path, table)
    progress.say(
        f"{len(table.layers)} layers and {len(table.networks)} networks by {clock.where} in {watch.seconds():.0f} s "
        f"-> {path}"
    )


def _precisions(session: Session) -> list[tuple[str, Network]]:
    """Return the network as it is, and in integers, by the name of the precision."""
    network = session.baseline.network
    return [(by_time.FLOAT32, network), (by_time.INT8, by_time.deployed(network, rule_to_come(session.profile)))]
