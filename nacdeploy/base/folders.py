"""Folders of results. A place is tested and reserved before the work, and filled without removing what lies there.

A new folder is made when its name is chosen, and stays locked while its process works, so that no other run chooses the
same folder. An empty folder that a killed run left is free again. Results are written into a temporary folder first.
When the results are complete, one rename puts the temporary folder in place of the reserved one. A folder that existed
before (a mount point, a link, the current folder) is filled entry by entry instead, with the record that names its kind
last.
"""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nacdeploy.base.errors import NacdeployError

_TEMPORARY = ".nacdeploy-"
_N_NAMED = 60  # characters of a folder's name in the name of its temporary directory
_YOUNG_S, _OLD_S = 60, 3600
_NOTHING = {"lost+found"}  # an entry of the file system itself in an empty volume
# The folders that this process has reserved, by absolute path, and whether it made them itself.
_held: dict[Path, bool] = {}


@contextmanager
def reserved(path: Path) -> Iterator[Path]:
    """Reserve a folder for this process within the block: make it if needed, and test that results can be written
    there.

    After the block the folder is removed again if it is empty and was made here.

    Raises:
        NacdeployError: the folder holds something, another run writes it, or nothing can be written there.
    """
    path = Path(path)
    with _taken(path) as is_locked:
        if is_locked is False:
            raise NacdeployError(f"{path} is being written by another run; choose another --out")
        if not _held[path.absolute()]:
            _check_empty(path)
            _prove(path)
        yield path


@contextmanager
def numbered(name: Callable[[int], Path]) -> Iterator[Path]:
    """Reserve the first free folder of `name(1)`, `name(2)`, ... within the block.

    If folders cannot be locked (on some network disks), only a folder that this process made is free.

    Raises:
        NacdeployError: nothing can be written there.
    """
    for path in map(name, itertools.count(1)):
        if os.path.lexists(path) and (not path.is_dir() or _entries(path)):
            continue
        with _taken(path) as is_locked:
            if (is_locked or (is_locked is None and _held[path.absolute()])) and not _entries(path):
                yield path
                return


@contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` if the block ends well, and is removed if the block fails.

    Raises:
        NacdeployError: `path` exists and is not empty (without `replace`), is being written by another run, or cannot
            be written.
    """
    path = Path(path)
    if replace:
        with _temporary(path, path.parent) as temporary:
            yield temporary
            _swap(temporary, path)
    elif path.absolute() in _held:
        with _filled(path) as temporary:
            yield temporary
    else:
        with reserved(path), _filled(path) as temporary:
            yield temporary


@contextmanager
def joined_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory whose files move into `path` if the block ends well.

    Each file moves as a whole and replaces a file of the same name; other files in `path` stay.

    Raises:
        NacdeployError: `path` cannot be written.
    """
    path = Path(path)
    if path.absolute() in _held:
        with _filled(path) as temporary:
            yield temporary
        return
    with _temporary(path, path.parent) as temporary:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            for name in _in_order(temporary):
                (temporary / name).replace(path / name)


def check_writable(path: Path) -> None:
    """Check that a directory can be made or written to, by writing to it and undoing that.

    Raises:
        NacdeployError: the directory cannot be written, or a file has its name.
    """
    parent = next(p for p in [Path(path), *Path(path).absolute().parents] if p.exists())
    if not parent.is_dir():
        raise _is_a_file(parent)
    try:
        Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent)).rmdir()
    except OSError as error:
        raise NacdeployError(f"{parent} is not writable ({error.strerror}); choose another --out") from error


def cannot_write(path: Path, error: OSError) -> NacdeployError:
    """Return the error for a place that cannot be written."""
    return NacdeployError(f"cannot write {path}: {error.strerror or error}; free some space or choose another --out")


@contextmanager
def _taken(path: Path) -> Iterator[bool | None]:
    """Make and lock a folder; yield whether this process holds the lock, or None if folders cannot be locked."""
    made = _made(path)
    with _locked(path) as is_locked:
        if is_locked is False or path.absolute() in _held:
            yield False
            return
        _held[path.absolute()] = path in made
        try:
            yield is_locked
        finally:
            del _held[path.absolute()]
            with suppress(OSError):  # the first that holds something ends it
                for folder in made:
                    folder.rmdir()


def _made(path: Path) -> list[Path]:
    """Make a folder and its missing parents; return the folders that were made, the innermost first."""
    made: list[Path] = []
    try:
        for folder in reversed([path, *path.parents]):
            if folder.is_dir():
                continue
            if os.path.lexists(folder):
                raise _is_a_file(folder) if folder != path else _exists(path)
            with suppress(FileExistsError):  # another run makes it at this moment
                folder.mkdir()
                made.insert(0, folder)
    except OSError as error:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise cannot_write(path, error) from error
    return made


@contextmanager
def _locked(path: Path) -> Iterator[bool | None]:
    """Yield whether this process holds the folder's lock, or None if there are no locks here.

    The lock ends with the process, however the process ends.
    """
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except ImportError:  # Windows
        yield None
        return
    except OSError:  # another run has just removed it, or it is not readable
        yield None if path.is_dir() else False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked: bool | None = os.path.samestat(os.fstat(descriptor), path.stat())  # else it was replaced
        except (BlockingIOError, FileNotFoundError):
            is_locked = False
        except OSError:
            is_locked = None
        yield is_locked
    finally:
        os.close(descriptor)


def _entries(path: Path) -> list[str]:
    """List a folder without the leftovers of a killed run."""
    names = [name for name in os.listdir(path) if name not in _NOTHING]  # noqa: PTH208 - names are all that is asked
    return [name for name in names if not name.startswith(_TEMPORARY)]


def _check_empty(path: Path) -> None:
    try:
        if _entries(path):
            raise _exists(path)
        for left in path.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _prove(path: Path) -> None:
    """Test the final move: move an entry out of a folder within `path` into `path`."""
    with _temporary(path, path) as temporary:
        (temporary / "proof").mkdir()
        (temporary / "proof").rename(moved := path / f"{temporary.name}-proof")
        moved.rmdir()


@contextmanager
def _filled(path: Path) -> Iterator[Path]:
    """Yield a temporary directory for a reserved folder: beside the folder if it was made here, else within it."""
    is_ours = _held[path.absolute()]
    with _temporary(path, path.parent if is_ours else path) as temporary:
        yield temporary
        if is_ours:
            with suppress(OSError):  # something appeared in it
                temporary.rename(path)
                return
        _move_in(temporary, path)


@contextmanager
def _temporary(path: Path, parent: Path) -> Iterator[Path]:
    """Yield a directory in `parent` for the future content of `path`; remove it after the block unless it was moved."""
    prefix = _TEMPORARY if parent == path else f"{_TEMPORARY}{path.name[:_N_NAMED]}."
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for place in {parent.absolute(), path.absolute().parent}:
            _sweep(place)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    except OSError as error:
        raise NacdeployError(f"cannot write to {parent}: {error.strerror}; choose another --out") from error
    try:
        temporary.chmod(0o755)
        with _locked(temporary):
            yield temporary
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a directory for this block in the system's folder for temporary files; remove those of killed processes.

    Raises:
        NacdeployError: nothing can be written there.
    """
    root = Path(tempfile.gettempdir())
    with _temporary(root / "scratch", root) as temporary:
        yield temporary


def _sweep(parent: Path) -> None:
    """Remove the remains of killed runs in a folder: temporary directories that no process holds any more, and files
    that no process can still be writing."""
    for left in parent.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            age_s = time.time() - left.lstat().st_mtime
            if left.is_symlink() or age_s < _YOUNG_S:  # a younger one may not be locked yet
                continue
            if left.is_file() and age_s > _OLD_S:
                left.unlink()
            elif left.is_dir():
                with _locked(left) as is_ours:
                    if is_ours:
                        shutil.rmtree(left, ignore_errors=True)


def _move_in(temporary: Path, path: Path) -> None:
    """Move the entries of a finished directory into `path`.

    Raises:
        NacdeployError: an entry of that name exists; the finished directory is kept beside `path` under another name.
    """
    path.mkdir(exist_ok=True)
    names = _in_order(temporary)
    if any(os.path.lexists(path / name) for name in names):
        places = (temporary.parent / f"{path.absolute().name}-kept-{n}" for n in itertools.count(1))
        kept = next(place for place in places if not os.path.lexists(place))
        temporary.rename(kept)
        raise NacdeployError(f"{path} was filled by something else meanwhile; what was made lies in {kept}")
    for name in names:
        (temporary / name).rename(path / name)


def _in_order(folder: Path) -> list[str]:
    """List a folder with the records last: once a record is there, the folder counts as what the record says."""
    return sorted(os.listdir(folder), key=lambda name: (name.endswith(".json"), name))  # noqa: PTH208


def _swap(temporary: Path, path: Path) -> None:
    """Put a finished directory in place of the folder at `path`."""
    if not path.is_dir():
        temporary.rename(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_TEMPORARY}{path.name[:_N_NAMED]}."))
    try:
        path.rename(old / "old")
        try:
            temporary.rename(path)
        except OSError:
            (old / "old").rename(path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _exists(path: Path) -> NacdeployError:
    return NacdeployError(f"{path} exists already; choose another --out or remove it")


def _is_a_file(path: Path) -> NacdeployError:
    return NacdeployError(f"{path} is a file, where a folder is needed; choose another --out or remove it")
