"""Checkpoints read back from a registry: `wandb:entity/project/name:alias`. What comes is somebody else's file."""

import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from nacdeploy.base import folders
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.base.tracking.tracker import first_line
from nacdeploy.base.tracking.wandb_tracker import environment_of, has_key

SCHEME = "wandb:"
FORM = "wandb:entity/project/name:alias"
TIMEOUT_S = 20
_SPELLING = re.compile(r"wandb:(?P<place>[\w-]+/[\w.-]+/[\w.-]+):(?P<version>[\w.-]+)", re.ASCII)


def is_remote(source: Path | str | None) -> bool:
    """Tell whether a source names a registry rather than a folder.

    >>> is_remote("wandb:me/nac/resnet8-digits:latest"), is_remote("runs/transfer-QEF-1")
    (True, False)
    """
    return source is not None and str(source).startswith(SCHEME)


def fetched(source: str, place: Path) -> Path:
    """Download a checkpoint into a folder below `place`, whole or not at all, and return the folder.

    Nothing of it runs or is trusted: its records go through the doors of every file from elsewhere, as they are read.

    Raises:
        UsageError: the name is not spelt as it must be, there is no key, or W&B is switched off.
        NacdeployError: W&B does not answer, or has no such artifact.
    """
    name = _checked(source)
    with folders.scratch() as temporary:
        version = _downloaded(name, source, temporary)
        made = place / re.sub(r"[^\w.-]+", "-", version)
        if not made.exists():
            _moved(temporary, made)
    return made


def _checked(source: str) -> str:
    """Return the name as W&B takes it."""
    found = _SPELLING.fullmatch(source)
    if found is None or any(part.strip(".") == "" for part in re.split("[/:]", source)):
        raise UsageError(f"'{source[:200]}' is not spelt {FORM}, such as wandb:me/nacdeploy/resnet8-digits:latest")
    if os.environ.get("WANDB_MODE", "").lower() in ("disabled", "offline", "dryrun"):
        raise UsageError(f"{source}: WANDB_MODE={os.environ['WANDB_MODE']} keeps W&B offline; unset it to download")
    if not has_key(os.environ):
        raise UsageError(f"{source}: no key of W&B: set WANDB_API_KEY or run 'wandb login'")
    return f"{found['place']}:{found['version']}"


def _downloaded(name: str, source: str, place: Path) -> str:
    """Download an artifact's files and return its name with the version that the alias stands for."""
    try:
        import wandb

        with environment_of(place / "client"):
            artifact: Any = wandb.Api(timeout=TIMEOUT_S).artifact(name)
            _check(artifact, source)
            artifact.download(root=str(place / "files"), skip_cache=True)
            return f"{artifact.entity}-{artifact.project}-{artifact.source_name}"
    except NacdeployError:
        raise
    except Exception as error:  # the client raises its own errors, requests' and sockets'
        why = first_line(error)
        raise NacdeployError(f"{source} cannot be read from W&B ({why}); check name, key and network") from error


def _check(artifact: Any, source: str) -> None:
    """Refuse a download that is too large, or whose files would lie elsewhere."""
    limit = doors.limits().weights_mib
    if artifact.size > limit * 2**20:
        raise doors.above(source, f"{artifact.size / 2**20:.0f} MiB", "weights_mib")
    for entry in artifact.manifest.entries:
        path = PurePosixPath(entry)
        if path.is_absolute() or ".." in path.parts or "\\" in entry:
            raise UsageError(f"{source}: its file '{entry[:100]}' would lie outside its folder; nothing is read")


def _moved(temporary: Path, made: Path) -> None:
    """Put the downloaded files where they stay.

    Raises:
        NacdeployError: they cannot be written.
    """
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(temporary / "files", made)
    except OSError as error:
        raise folders.cannot_write(made, error) from error
