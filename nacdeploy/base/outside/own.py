"""The records that this user wrote, and the reach of all others: their own folder.

A record names other places: the checkpoint that it came from, the cache of a search. Its author may have meant any
place at all. Records that this user's own commands wrote are noted by their sha256 in the user's own settings folder;
their references are the user's word. The references of other records are followed only within the folders around them.
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
    """Return this user's own settings folder, or None if no home is known."""
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
    """Note that this user's own command wrote a record; without a settings folder nothing is noted."""
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
    """Remove the note that a record is this user's own.

    Raises:
        NacdeployError: the folder of settings cannot be written.
    """
    folder, sha256 = settings_folder(), records.sha256_file(record)
    if folder is not None and sha256 in _written(folder):
        kept = "".join(f"{line}\n" for line in _written(folder) if line != sha256)
        records.write_text(folder / _WRITTEN, kept)


def is_own(record: Path) -> bool:
    """Tell whether this user's own command wrote a record with this content."""
    folder = settings_folder()
    try:
        return folder is not None and records.sha256_file(record) in _written(folder)
    except OSError:
        return False


def check_links(folder: Path, record: Path) -> None:
    """Check that a folder with somebody else's record holds no link out of it: what goes on there writes into it.

    Raises:
        UsageError: a link leads outside.
    """
    if is_own(record):
        return
    for where, folders, names in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *names)):
            if path.is_symlink() and not is_inside(path, [folder]):
                raise UsageError(
                    f"{path} leads out of {folder}, which was not written by you here: remove it, or 'nacdeploy trust "
                    f"{folder}' if you trust it"
                )


def _written(folder: Path) -> list[str]:
    try:
        return doors.read_text(folder / _WRITTEN, "record_mib").splitlines()
    except (OSError, UsageError):
        return []


def is_inside(place: Path, folders: Iterable[Path]) -> bool:
    """Tell whether a place lies in one of some folders, links followed."""
    try:
        real = place.resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # a text that can be no path, a circle of links
        return False
