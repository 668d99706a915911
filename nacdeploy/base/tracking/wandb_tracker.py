"""W&B: runs through W&B's real client, offline without key or network, and what a registry of theirs holds."""

import contextlib
import json
import netrc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from nacdeploy.base.progress import Say
from nacdeploy.base.tracking.tracker import RECORD_NAME, Item, first_line, plain, spelled, variables

Mode = Literal["online", "offline", "disabled"]

INIT_TIMEOUT_S = 20.0


class WandbTracker:
    """A W&B run whose files all lie under `directory`. After its first failure the tracker stays silent."""

    def __init__(
        self, directory: Path, project: str, config: Mapping[str, object], name: str, *, mode: Mode, say: Say
    ) -> None:
        self.mode = mode
        self._say = say
        self._declared: set[object] = set()
        self._environment = contextlib.ExitStack()
        self._environment.enter_context(environment_of(directory / "wandb"))
        self._run: Any = None
        with self._guarded("could not start"):
            self._run = self._start(directory, project, config, name)

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        with self._guarded("could not record a row"):
            if self._run is not None:
                self._run.log({f"{kind}/{key}": value for key, value in plain(data).items()})

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

    def artifact(self, item: Item) -> None:
        with self._guarded(f"could not record the artifact '{item.name}'"):
            if self._run is not None:
                self._log_artifact(item)

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
            self._say(f"W&B: no connection ({first_line(error)}); going on offline")
            self.mode = "offline"
            run = _init(directory, project, config, name, self.mode)
        self._say(_describe(run, self.mode, directory))
        return run

    def _log_artifact(self, item: Item) -> None:
        for parent in item.parents:
            self._declare_parent(parent)
        self._declared.add(_identity(item))
        self._run.log_artifact(_artifact(item), aliases=_aliases(item))

    def _declare_parent(self, parent: Item) -> None:
        """Declare a parent of an artifact: online as an input of the run; offline, where W&B refuses inputs, beside its
        child."""
        if _identity(parent) in self._declared or (parent.path is not None and not parent.path.exists()):
            return
        self._declared.add(_identity(parent))
        if self.mode == "online":
            self._run.use_artifact(_artifact(parent), aliases=_aliases(parent))
        else:
            self._run.log_artifact(_artifact(parent), aliases=_aliases(parent))

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tracking is a convenience: the run goes on after any error of its client
            self._run = None
            self._say(f"warning: W&B {what} ({first_line(error)}); going on with {RECORD_NAME} only")


def wandb_mode(environment: Mapping[str, str]) -> Mode:
    """Return `WANDB_MODE` if it says offline or disabled; else online with a key, and offline without one."""
    asked = environment.get("WANDB_MODE", "").lower()
    if asked == "disabled":
        return "disabled"
    if asked in ("offline", "dryrun") or not has_key(environment):
        return "offline"
    return "online"


def has_key(environment: Mapping[str, str]) -> bool:
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


def environment_of(inside: Path) -> contextlib.AbstractContextManager[None]:
    """Set the variables that W&B reads only from the environment; without them W&B writes to ~/.cache and ~/.local."""
    inside = inside.resolve()
    return variables(
        {
            "WANDB_CACHE_DIR": str(inside / "cache"),
            "WANDB_DATA_DIR": str(inside / "data"),
            "WANDB_ARTIFACT_DIR": str(inside / "artifacts"),
            "WANDB_SILENT": "true",
        }
    )


def _init(directory: Path, project: str, config: Mapping[str, object], name: str, mode: Mode) -> Any:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=INIT_TIMEOUT_S)
    return wandb.init(
        mode=mode, dir=str(directory.resolve()), project=project, name=name, config=plain(config), settings=quiet
    )


def _artifact(item: Item) -> Any:
    import wandb

    artifact = wandb.Artifact(item.slug, type=item.kind, metadata=plain(item.metadata))
    if item.path is None:  # data lie elsewhere: what is known of them is the version
        with artifact.new_file("record.json") as record:
            record.write(json.dumps(plain(item.metadata), sort_keys=True))
        return artifact
    files = sorted(p for p in item.path.rglob("*") if p.is_file()) if item.path.is_dir() else [item.path]
    for file in files:
        inside = file.name if file == item.path else str(file.relative_to(item.path))
        # Immutable: the record points at the folder's own file instead of holding a second copy of every model.
        artifact.add_file(str(file.resolve()), name=inside, policy="immutable", skip_cache=True)
    return artifact


def _aliases(item: Item) -> list[str]:
    return ["latest", *dict.fromkeys(spelled(alias) for alias in item.aliases if alias)]


def _identity(item: Item) -> object:
    return item.name if item.path is None else item.path.resolve()


def _describe(run: Any, mode: Mode, directory: Path) -> str:
    if mode == "online":
        return f"W&B: online, {run.url}"
    return f"W&B: offline; send it later with: wandb sync {directory / 'wandb' / 'offline-run-*'}"


def _cell(value: object) -> object:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
