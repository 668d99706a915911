"""Downloads through torchvision: their folder, and one clear line when a download fails."""

import contextlib
import os
import sys
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from nacdeploy.base.errors import NacdeployError

SOURCE = "torchvision download"


def cache_directory() -> Path:
    """Return the folder of downloads: `$XDG_CACHE_HOME/nacdeploy` or `~/.cache/nacdeploy`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nacdeploy"


@contextlib.contextmanager
def downloading(name: str, files: str, directory: Path) -> Iterator[None]:
    """Open a block that may download data set `name` to `directory`; `files` are the files to fetch by hand instead.

    Raises:
        NacdeployError: the download failed.
    """
    existed = directory.exists()
    try:
        # torchvision may print; stdout is for results.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, HTTPException) as error:
        if not existed:
            with contextlib.suppress(OSError):
                directory.rmdir()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NacdeployError(
            f"cannot download {name} to {directory} ({reason}); put {files} into a directory and give it as {name}:DIR"
        ) from error
