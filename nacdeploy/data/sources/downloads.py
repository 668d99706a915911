"""Downloads through torchvision: their folder, and one clear line when a download fails.

A download is written into the user's own cache, or into a folder that the user named for it. A folder that only a
record or a profile names, which may be somebody else's, is read.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from nacdeploy.base.errors import NacdeployError, UsageError

SOURCE = "torchvision download"
_named: set[Path] = set()


def cache_directory() -> Path:
    """Return the folder of downloads: `$XDG_CACHE_HOME/nacdeploy` or `~/.cache/nacdeploy`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nacdeploy"


def name_by_user(data: str | None) -> None:
    """Note that this user named a data set: its folder may then be downloaded to, in this process."""
    _, _, folder = (data or "").partition(":")
    if folder:
        _named.add(Path(folder).expanduser().absolute())


def place(argument: str | None) -> tuple[Path, bool]:
    """Return the folder of a data set, and whether a download may be written there."""
    if argument is None:
        return cache_directory(), True
    folder = Path(argument).expanduser()
    return folder, folder.absolute() in _named


@contextlib.contextmanager
def downloading(name: str, files: str, directory: Path, may: bool = True) -> Iterator[None]:
    """Open a block that may download data set `name` to `directory`; `files` are the files to fetch by hand instead.

    Raises:
        NacdeployError: the download failed.
        UsageError: the data are not there, and nothing may be downloaded.
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
        if may is False:
            raise UsageError(
                f"{directory} does not hold {name}, and a folder that only a record or a profile names is not "
                f"downloaded to: pass --data {name}:{directory}, or put {files} there"
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NacdeployError(
            f"cannot download {name} to {directory} ({reason}); put {files} into a directory and give it as {name}:DIR"
        ) from error
