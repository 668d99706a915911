"""The places of results: `runs/<name>/`, the baselines that later commands of the same folder reuse, and the last
result."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import folders, latency, records
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.targets import Target, gpu
from nacdeploy.profile import Profile
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable

LAST = "last.json"
MAX_NAME = 60
_NOT_TIMED = {"guard", "min_agreement", "min_snr_db", "n_parity", "compute_capabilities", "license"}


@dataclass(frozen=True)
class Last:
    """last.json: the folder of the result finished last."""

    result: str


@dataclass(frozen=True)
class Runs:
    """The folder of results."""

    root: Path = Path("runs")

    @contextmanager
    def place(self, out: Path | str | None, kind: str) -> Iterator[Path]:
        """Reserve the folder of a new result within the block: the user's own, or the next free `<kind>-<n>`.

        Raises:
            NacdeployError: the user's own holds something already, another run writes it, or it cannot be written.
        """
        folders.check_writable(self.root)
        name = kind[:MAX_NAME]
        own = folders.reserved(Path(out)) if out is not None else None
        with own or folders.numbered(lambda n: self.root / f"{name}-{n}") as place:
            yield place

    def baseline(self, key: str) -> Path:
        """Return the folder of the baseline that is trained from these settings."""
        return self.root / "baselines" / key[:16]

    def measurements(self, state_key: str, profile: Profile, target: Target) -> Path:
        """Return the file of the times that decided precisions: of one state, target, machine with its runtimes, and
        method."""
        bench = profile.bench.model_dump(mode="json")
        export = profile.export.model_dump(mode="json", exclude=_NOT_TIMED)
        grid = target.grid(profile.of(QuantizeTable).grid)
        here = [latency.machine(), [state.name for state in gpu.states()], artifact.versions()]
        key = records.sha256_data([state_key, target.name, grid.name, bench, export, here])
        return self.root / "autotune" / f"{key[:16]}.json"

    @property
    def unfinished(self) -> Path:
        """Return the folder of trainings under way."""
        return self.root / "unfinished"

    @property
    def latencies(self) -> Path:
        """Return the folder of the tables of measured times, one for each network, machine and method."""
        return self.root / "latencies"

    def finished(self, result: Path) -> None:
        """Note a result as the one finished last."""
        records.write_json(self.root / LAST, Last(str(result)))

    def last(self) -> Path:
        """Return the result finished last.

        Raises:
            UsageError: there is none.
        """
        if not (self.root / LAST).is_file():
            raise UsageError(
                f"nothing in {self.root}/ yet: run 'nacdeploy search' or 'nacdeploy transfer', or give --from"
            )
        path = Path(records.read(Last, self.root / LAST).result)
        if not records.exists(path):
            raise UsageError(f"the result finished last, {path}, is gone; name another with --from")
        return path
