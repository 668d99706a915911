"""The trust of this user: files of code that may run, and records of others whose references are followed."""

import os
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import own
from nacdeploy.exporters.artifacts.artifact import MANIFEST
from nacdeploy.models.users import project
from nacdeploy.models.users import trust as code
from nacdeploy.models.users.factory import split_file_name
from nacdeploy.sessions.resuming import RUN_FILE
from nacdeploy.strategies.steps.checkpoint import RECORD

RECORDS = (RUN_FILE, RECORD, MANIFEST)


@dataclass(frozen=True)
class Listed:
    """A file that may run: its path, the sha256 of its code, and whether the file is unchanged."""

    path: str
    sha256: str
    is_unchanged: bool


@dataclass(frozen=True)
class Trust:
    """The paths that were trusted, or whose trust was taken back: a file of code, or the records of a folder."""

    paths: tuple[str, ...]
    is_trusted: bool
    says: str


def trusted() -> tuple[Listed, ...]:
    """Return the files of code that may run for this user."""
    return tuple(Listed(each.path, each.sha256, _sha256(each.path) == each.sha256) for each in code.listed())


def trust(path: Path | str, *, remove: bool = False) -> Trust:
    """Trust a file of code, or the folder of a run, checkpoint or artifact, as it is now; or take that back.

        >>> import nacdeploy
        >>> nacdeploy.trust("runs/transfer-QEF-1", remove=True).is_trusted
        False
        >>> nacdeploy.trust("runs/transfer-QEF-1").is_trusted
        True

    Raises:
        UsageError: there is no such file, or the folder holds no record.
        NacdeployError: the settings folder cannot be written.
    """
    text = str(path)
    if ".py:" in text:
        path = split_file_name(text)[0]
    path = Path(path).expanduser().absolute()
    if _is_code(path):
        return _taken_back(path) if remove else _code(path)
    return _records(path, remove)


def _is_code(path: Path) -> bool:
    """Tell whether a path is that of a file of code: Python's, a script that can be executed, or one trusted before."""
    is_script = path.is_file() and path.name not in RECORDS and os.access(path, os.X_OK)
    return path.suffix == ".py" or is_script or str(path) in [each.path for each in code.listed()]


def _code(path: Path) -> Trust:
    found = project.read(path)
    code.accept(found.path, found.sha256)
    if Listed(str(found.path), found.sha256, True) not in trusted():
        raise UsageError(f"{own.settings_folder()} cannot be written, so that nothing is kept of what you trust")
    with_imports = f" with {len(found.imported)} modules that it imports" if found.imported else ""
    return Trust((str(found.path),), True, f"may run in this content (sha256 {found.sha256[:12]}){with_imports}")


def _taken_back(path: Path) -> Trust:
    if not code.remove(path):
        raise UsageError(f"{path} is not trusted; 'nacdeploy trust' lists what is")
    return Trust((str(path),), False, "does not run any more until you name it again")


def _records(path: Path, remove: bool) -> Trust:
    found = [path] if path.name in RECORDS and records.is_file(path) else []
    found = found or [place for name in RECORDS for place in (path / name, path / "checkpoint" / name)]
    there = [place for place in found if records.is_file(place)]
    if not there:
        raise UsageError(
            f"{path} is no file of code (.py, or an executable script) and no folder of a run, checkpoint or artifact"
        )
    for place in there:
        own.forget(place) if remove else own.note(place)
        if own.is_own(place) == remove:
            raise UsageError(f"{own.settings_folder()} cannot be written, so that nothing is kept of what you trust")
    says = (
        "is not followed outside its folder any more" if remove else "may name places outside its folder, as yours do"
    )
    return Trust(tuple(map(str, there)), not remove, says)


def _sha256(path: str) -> str | None:
    try:
        return project.read(Path(path)).sha256
    except UsageError:
        return None
