"""Trust in code: a user's file runs only if this user named it, with the content that it had then.

Naming a file (--model on a command line or in nacdeploy.toml, `model=` in Python, `nacdeploy trust`) notes its path and
the sha256 of its code in this user's own settings folder. No checkpoint, artifact or run that somebody else made can
write to that folder. A file that only such a record names does not run.
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
    """A file that may run: its absolute path, and the sha256 of the file with its imports from its project."""

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
    """Refuse to run a user's file that this user has not named in this content: the gate before every run.

    Raises:
        UsageError: this user has not named the file in this content; `what_works` ends the message.
    """
    if (str(path), sha256) in _accepted:
        return
    place = _place(path, sha256)
    if place is None or not records.is_file(place) or records.read(Trusted, place) != Trusted(str(path), sha256):
        raise UsageError(f"{path} is code that only a record names, and is not run: {what_works} if you trust it")


def located(path: Path, sha256: str) -> Path | None:
    """Return a file of this content that this user named and whose path ends as `path` does.

    The end of the path counts because a record may be read in another folder than it was made in.
    """
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
    """Return the file that notes that a file may run."""
    folder = _folder()
    name = f"{sha256[:16]}-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    return folder / name if folder is not None else None


def listed() -> tuple[Trusted, ...]:
    """Return the files that may run, by path, without damaged notes."""
    folder = _folder()
    found = []
    for place in folder.glob("*.json") if folder is not None and folder.is_dir() else ():
        try:
            found.append(records.read(Trusted, place))
        except UsageError:
            continue
    return tuple(sorted(found, key=lambda each: (each.path, each.sha256)))


def remove(path: Path) -> int:
    """Forbid a file to run, with any content; return the number of its contents that might run before.

    Raises:
        OSError: the settings folder cannot be written.
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
