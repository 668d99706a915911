"""Tracking: the record of a run's rows, tables and artifacts, written while the run goes on.

The JSON-lines record is always written. W&B stands beside it through W&B's real client, offline without key or network;
a W&B failure is one line of warning and never ends a run.
"""

import contextlib
import json
import math
import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlparse

from nacdeploy.base import folders
from nacdeploy.base.progress import Say

Mode = Literal["online", "offline", "disabled"]

RECORD_NAME = "tracking.jsonl"
INIT_TIMEOUT_S = 20.0
MAX_NAME = 128


class Tracker(Protocol):
    """A sink for the reports of a run.

    >>> tracker: Tracker = JsonLinesTracker(Path("example") / RECORD_NAME)
    >>> tracker.row("epoch", {"epoch": 1, "loss": 0.5})
    >>> tracker.close()
    >>> print((Path("example") / RECORD_NAME).read_text().strip())
    {"epoch": 1, "loss": 0.5, "kind": "epoch"}
    """

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        """Record one evaluation, epoch or other event; `kind` names which."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Record a whole table, such as the strategies of a search."""

    def media(self, name: str, path: Path) -> None:
        """Record a picture (.png) or a page (.html)."""

    def artifact(self, path: Path, name: str, metadata: Mapping[str, object]) -> None:
        """Record a finished file or folder of type model; `metadata["parents"]` lists the paths of its sources."""

    def close(self) -> None:
        """Write what is buffered; nothing may be recorded afterwards."""


class JsonLinesTracker:
    """A tracker that appends one JSON object per line and flushes at once, so that a killed run keeps its reports."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            broken_end = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
            self._file = path.open("a", encoding="utf-8")
            if broken_end:
                self._file.write("\n")
        except OSError as error:
            raise folders.cannot_write(path, error) from error

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        self._write({**data, "kind": kind})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._write({"kind": "table", "name": name, "columns": columns, "rows": rows})

    def media(self, name: str, path: Path) -> None:
        self._write({"kind": "media", "name": name, "path": path})

    def artifact(self, path: Path, name: str, metadata: Mapping[str, object]) -> None:
        self._write({"kind": "artifact", "name": name, "path": path, "metadata": metadata})

    def close(self) -> None:
        self._file.close()

    def _write(self, line: Mapping[str, object]) -> None:
        try:
            self._file.write(json.dumps(_plain(line), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise folders.cannot_write(self._path, error) from error


class WandbTracker:
    """A W&B run whose files all lie under `directory`. After its first failure the tracker stays silent."""

    def __init__(
        self, directory: Path, project: str, config: Mapping[str, object], name: str, *, mode: Mode, say: Say
    ) -> None:
        self.mode = mode
        self._say = say
        self._lineage: dict[Path, Any] = {}
        self._environment = contextlib.ExitStack()
        self._environment.enter_context(_environment(directory))
        self._run: Any = None
        with self._guarded("could not start"):
            self._run = self._start(directory, project, config, name)

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        with self._guarded("could not record a row"):
            if self._run is not None:
                self._run.log({f"{kind}/{key}": value for key, value in _plain(data).items()})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        with self._guarded(f"could not record the table '{name}'"):
            if self._run is not None:
                import wandb

                cells = [[_cell(value) for value in row] for row in rows]
                self._run.log({name: wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)})

    def media(self, name: str, path: Path) -> None:
        with self._guarded(f"could not record '{name}'"):
            if self._run is not None:
                import wandb

                shown = wandb.Html(str(path)) if path.suffix == ".html" else wandb.Image(str(path))
                self._run.log({name: shown})

    def artifact(self, path: Path, name: str, metadata: Mapping[str, object]) -> None:
        with self._guarded(f"could not record the artifact '{name}'"):
            if self._run is not None:
                self._log_artifact(path, name, metadata)

    def close(self) -> None:
        with self._environment, self._guarded("could not finish"):
            if self._run is not None:
                self._run.finish()
        self._run = None

    def _start(self, directory: Path, project: str, config: Mapping[str, object], name: str) -> Any:
        try:
            run = _init(directory, project, config, name, self.mode)
        except Exception as error:  # a key without network, or a key that W&B does not take
            if self.mode == "offline":
                raise
            self._say(f"W&B: no connection ({_first_line(error)}); going on offline")
            self.mode = "offline"
            run = _init(directory, project, config, name, self.mode)
        self._say(_describe(run, self.mode, directory))
        return run

    def _log_artifact(self, path: Path, name: str, metadata: Mapping[str, object]) -> None:
        parents = [Path(str(parent)) for parent in _listed(metadata.get("parents"))]
        for parent in parents:
            self._declare_parent(parent.resolve())
        logged = self._run.log_artifact(_artifact(path, name, _plain(metadata)))
        self._lineage[path.resolve()] = logged

    def _declare_parent(self, parent: Path) -> None:
        """Declare a parent of an artifact: online as an input of the run; offline, where W&B refuses inputs, beside its
        child."""
        if not parent.exists() or parent in self._lineage:
            return
        record = self._run.use_artifact if self.mode == "online" else self._run.log_artifact
        self._lineage[parent] = record(_artifact(parent, parent.name, {}))

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tracking is a convenience: the run goes on after any error of its client
            self._run = None
            self._say(f"warning: W&B {what} ({_first_line(error)}); going on with {RECORD_NAME} only")


@dataclass(frozen=True)
class Trackers:
    """Several trackers as one."""

    members: tuple[Tracker, ...] = field(default=())

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        for member in self.members:
            member.row(kind, data)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        for member in self.members:
            member.table(name, columns, rows)

    def media(self, name: str, path: Path) -> None:
        for member in self.members:
            member.media(name, path)

    def artifact(self, path: Path, name: str, metadata: Mapping[str, object]) -> None:
        for member in self.members:
            member.artifact(path, name, metadata)

    def close(self) -> None:
        for member in self.members:
            member.close()


def open_tracker(directory: Path, *, wandb: bool, project: str, config: Mapping[str, object], say: Say) -> Tracker:
    """Open the trackers of a run: `directory/tracking.jsonl`, and W&B if it is wanted and not disabled.

    Raises:
        NacdeployError: the directory is not writable.
    """
    record = JsonLinesTracker(directory / RECORD_NAME)
    record.row("config", {"project": project, "config": config})
    mode = wandb_mode(os.environ) if wandb else "disabled"
    if mode != "disabled":
        return Trackers((record, WandbTracker(directory, project, config, directory.name, mode=mode, say=say)))
    if wandb:
        say(f"W&B: disabled by WANDB_MODE; rows go to {directory / RECORD_NAME}")
    return record


def wandb_mode(environment: Mapping[str, str]) -> Mode:
    """Return `WANDB_MODE` if it says offline or disabled; else online with a key, and offline without one."""
    asked = environment.get("WANDB_MODE", "").lower()
    if asked == "disabled":
        return "disabled"
    if asked in ("offline", "dryrun") or not _has_key(environment):
        return "offline"
    return "online"


def _has_key(environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path(environment.get("HOME", "~")).expanduser()
    given = environment.get("NETRC")
    for path in [Path(given).expanduser()] if given else [home / ".netrc", home / "_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(path).authenticators(host):
                return True
    return False


@contextlib.contextmanager
def _environment(directory: Path) -> Iterator[None]:
    """Set the variables that W&B reads only from the environment; without them W&B writes to ~/.cache and ~/.local."""
    inside = directory.resolve() / "wandb"
    wanted = {
        "WANDB_CACHE_DIR": str(inside / "cache"),
        "WANDB_DATA_DIR": str(inside / "data"),
        "WANDB_ARTIFACT_DIR": str(inside / "artifacts"),
        "WANDB_SILENT": "true",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _init(directory: Path, project: str, config: Mapping[str, object], name: str, mode: Mode) -> Any:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=INIT_TIMEOUT_S)
    return wandb.init(
        mode=mode, dir=str(directory.resolve()), project=project, name=name, config=_plain(config), settings=quiet
    )


def _artifact(path: Path, name: str, metadata: Mapping[str, object]) -> Any:
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name)[:MAX_NAME], type="model", metadata=dict(metadata))
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        inside = file.name if file == path else str(file.relative_to(path))
        # Immutable: the record points at the folder's own file instead of holding a second copy of every model.
        artifact.add_file(str(file.resolve()), name=inside, policy="immutable", skip_cache=True)
    return artifact


def _describe(run: Any, mode: Mode, directory: Path) -> str:
    if mode == "online":
        return f"W&B: online, {run.url}"
    return f"W&B: offline; send it later with: wandb sync {directory / 'wandb' / 'offline-run-*'}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _cell(value: object) -> object:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _plain(value: Any) -> Any:
    """Convert to JSON-able data: mappings and sequences entry by entry, and numbers that JSON lacks and other objects
    as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
