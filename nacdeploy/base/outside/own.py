"""Which records this user wrote himself, and where the others may lead: nowhere outside their own folder.

A record names other places: the checkpoint that it came from, the cache of a search. Whoever made it may have meant any
place at all. Records that this user's own commands wrote are noted by their sha256 in his own folder of settings; what
one of them names is his word. What another one names is followed only within the folders that it lies in.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors

VARIABLE = "NACDEPLOY_CONFIG"
_WRITTEN = "written.txt"


def settings_folder() -> Path | None:
    """This user's own folder of settings; None where no home is known."""
    given, base = os.environ.get(VARIABLE), os.environ.get("XDG_CONFIG_HOME")
    if given:
        return Path(given).absolute()
    if base and Path(base).is_absolute():
        return Path(base) / "nacdeploy"
    try:
        return Path.home() / ".config" / "nacdeploy"
    except RuntimeError:
        return None


def note(record: Path) -> None:
    """Note that this user's own command wrote a record; without a folder of settings nothing is noted."""
    folder = settings_folder()
    if folder is None or is_own(record):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _WRITTEN).open("a", encoding="ascii") as file:
            file.write(f"{records.sha256_file(record)}\n")
    except OSError:
        return


def forget(record: Path) -> None:
    """Take back that a record is this user's own.

    Raises:
        NacdeployError: the folder of settings cannot be written.
    """
    folder, sha256 = settings_folder(), records.sha256_file(record)
    if folder is not None and sha256 in _written(folder):
        kept = "".join(f"{line}\n" for line in _written(folder) if line != sha256)
        records.write_text(folder / _WRITTEN, kept)


def is_own(record: Path) -> bool:
    """Whether this user's own command wrote a record with this content."""
    folder = settings_folder()
    try:
        return folder is not None and records.sha256_file(record) in _written(folder)
    except OSError:
        return False


def _written(folder: Path) -> list[str]:
    try:
        return doors.read_text(folder / _WRITTEN, "record_mib").splitlines()
    except (OSError, UsageError):
        return []


def is_inside(place: Path, folders: Iterable[Path]) -> bool:
    """Whether a place lies in one of some folders, links followed."""
    try:
        real = place.resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # a text that can be no path, a circle of links
        return False
