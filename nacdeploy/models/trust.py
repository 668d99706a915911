"""Whose code is run: a user's file is run only where this user named it, in this content.

Naming it (--model on a command line or in nacdeploy.toml, `model=` in Python, `nacdeploy trust`) notes its path and the
sha256 of what it runs in this user's own folder of settings, which no checkpoint, artifact or run that somebody else
made can write to.
What only such a record names is not run.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import own

VARIABLE = own.VARIABLE
_accepted: set[tuple[str, str]] = set()  # of this process, where the settings cannot be written


@dataclass(frozen=True)
class Trusted:
    """A file that may run: its absolute path, and the sha256 of it with what it imports from its project."""

    path: str
    sha256: str
    schema: int = records.SCHEMA_VERSION


def accept(path: Path, sha256: str, *, keep: bool = True) -> None:
    """Let a file of this content run: from now on, or (without `keep`) in this process."""
    _accepted.add((str(path), sha256))
    place = _place(path, sha256)
    if keep and place is not None and not records.is_file(place):
        try:
            records.write_json(place, Trusted(str(path), sha256))
        except NacdeployError:
            return  # it holds for this process


def check(path: Path, sha256: str, what_works: str) -> None:
    """The gate that every run of a user's file passes.

    Raises:
        UsageError: this user has not named the file in this content; `what_works` ends the message.
    """
    if (str(path), sha256) in _accepted:
        return
    place = _place(path, sha256)
    if place is None or not records.is_file(place) or records.read(Trusted, place) != Trusted(str(path), sha256):
        raise UsageError(f"{path} is code that only a record names, and is not run: {what_works} if you trust it")


def located(path: Path, sha256: str) -> Path | None:
    """A file of this content that this user named, whose path ends as `path` does: a record may be read in another
    folder than it was made in."""
    place, ending = _place(path, sha256), [part for part in path.parts if part not in ("..", ".")]
    if place is None or not place.parent.is_dir():
        return None
    for file in sorted(place.parent.glob(f"{sha256[:16]}-*.json")):
        found = records.read(Trusted, file)
        if (
            found.sha256 == sha256
            and [*Path(found.path).parts[-len(ending) :]] == ending
            and Path(found.path).is_file()
        ):
            return Path(found.path)
    return None


def _place(path: Path, sha256: str) -> Path | None:
    """Where it is noted that a file may run."""
    folder = _folder()
    name = f"{sha256[:16]}-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    return folder / name if folder is not None else None


def listed() -> tuple[Trusted, ...]:
    """The files that may run, by path; a note that is damaged is none."""
    folder = _folder()
    found = []
    for place in folder.glob("*.json") if folder is not None and folder.is_dir() else ():
        try:
            found.append(records.read(Trusted, place))
        except UsageError:
            continue
    return tuple(sorted(found, key=lambda each: (each.path, each.sha256)))


def remove(path: Path) -> int:
    """Let a file run no more, whatever its content; how many contents of it might.

    Raises:
        OSError: the folder of settings cannot be written.
    """
    gone = [each for each in listed() if each.path == str(path)]
    for each in gone:
        place = _place(path, each.sha256)
        if place is not None:
            place.unlink(missing_ok=True)
        _accepted.discard((each.path, each.sha256))
    return len(gone)


def _folder() -> Path | None:
    settings = own.settings_folder()
    return settings / "trusted" if settings is not None else None
