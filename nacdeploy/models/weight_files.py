"""Files of weights: safetensors, torch's archive and its older format, told apart by name and content.

No code of a file is run: torch's unpickler of weights loads the file, and every name in it other than tensors and plain
values becomes an empty stand-in.
"""

import itertools
import os
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors

SAFETENSORS = ".safetensors"
_TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".pickle", ".model", ".weights")
_PYTHON_3 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocol 2 writes the names of Python 2
_IS_TENSOR = re.compile(r"torch\.(_utils\.|storage\.|\w*Storage$)|collections\.OrderedDict$")


def content(path: Path) -> Any:
    """Read a file: tensors, plain values, and empty stand-ins.

    Raises:
        UsageError: the file is missing, damaged, of another kind, or cannot be loaded without running code.
    """
    if not path.exists():
        raise UsageError(f"checkpoint {path} does not exist")
    doors.check_file(path)
    with path.open("rb") as file:
        head = file.read(9)
    suffix = path.suffix.lower()
    if suffix == SAFETENSORS or (suffix not in _TORCH and _is_safetensors(head, path)):
        try:
            return load_file(path)
        except (SafetensorError, OSError, RuntimeError) as error:  # torch's, where the file cannot be mapped
            raise UsageError(f"{path} is not a readable safetensors file: {error}") from error
    if suffix not in _TORCH and not head.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise UsageError(f"{path}: a checkpoint is a folder, a .safetensors file or a .pt file with a state dict")
    return _unpickled(path)


def _is_safetensors(head: bytes, path: Path) -> bool:
    """Recognise the format of safetensors: a length of 8 bytes, then a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _unpickled(path: Path) -> Any:
    _check_archive(path)
    try:
        stand_ins = {name: _stand_in(name) for name in _globals(path)}
        return _loaded(path, stand_ins)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds more than tensors or is damaged, and is not loaded, since that could run code in it; "
            f"save the state dict alone: torch.save(model.state_dict(), path){_named(path)}"
        ) from error


def _loaded(path: Path, stand_ins: dict[str, type]) -> Any:
    """Load by torch's own unpickler of weights, with stand-ins for all other names.

    Only filling a stand-in shows whether it must be a dict.
    """
    while True:
        allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                return _by_torch(path)
        except pickle.UnpicklingError as error:
            filled = [n for n, kind in stand_ins.items() if f"'{kind.__module__}.{n}'" in str(error)]
            if "SETITEM" not in str(error) or not filled:
                raise
            stand_ins = {**stand_ins, **{name: _stand_in(name, as_dict=True) for name in filled}}


def _by_torch(path: Path) -> Any:
    """Read a file with torch's own unpickler.

    Raises:
        UnpicklingError: the unpickler fails, in whichever way its stack machine ends on a file that is no pickle.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError):
        raise
    except Exception as error:
        raise pickle.UnpicklingError(f"torch cannot read it ({type(error).__name__}: {error})") from error


def _stand_in(name: str, as_dict: bool = False) -> type:
    """Return a class under a name of the file that accepts any arguments and keeps nothing."""

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return {} if as_dict else object.__new__(cls)

    def ignore(self: Any, *args: Any, **kwargs: Any) -> None:
        return

    body = {"__new__": new, "__init__": ignore, "__setstate__": ignore, "__module__": "stand-in", "__qualname__": name}
    return type(name, (), body)


def _globals(path: Path) -> list[str]:
    """Return the names of code in a file that torch does not load as weights."""
    found: dict[str, None] = {}
    for stream in _pickles(path):
        with suppress(ValueError, EOFError):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    found[f"{_PYTHON_3.get(module, module)}.{name}"] = None
    return [name for name in found if not _IS_TENSOR.match(name)]


def _pickles(path: Path) -> Iterator[Any]:
    """Yield the pickles of a file: one in an archive, several one after the other in the older format."""
    if _is_archive(path):
        with zipfile.ZipFile(path) as archive:
            entry = next((e for e in archive.infolist() if e.filename.endswith("data.pkl")), None)
        if entry is not None:
            yield _stored(path, entry)
        return
    with path.open("rb") as file:
        for _ in range(5):
            yield file


def _is_archive(path: Path) -> bool:
    """Tell whether a file is torch's archive, whole or damaged.

    Raises:
        UsageError: its directory is damaged.
    """
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is damaged ({error}); copy it again") from error


def _stored(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """Return the bytes of an entry, which torch does not compress, whatever their checksum."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        return file.read(entry.file_size)


def _named(path: Path) -> str:
    names: list[str] = []
    with suppress(Exception):
        names = _globals(path)
    return f" (it names {listed(names)})" if names else ""


def _check_archive(path: Path) -> None:
    """Check the checksums of torch's archive; torch itself does not.

    Raises:
        UsageError: a checksum does not match, or the archive holds a program.
    """
    if not _is_archive(path):
        return
    good, damaged = [], []
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_unpacked(archive, path)
            for name in names:
                try:
                    with archive.open(name) as file:
                        while file.read(1 << 20):
                            pass
                    good.append(name)
                except (zipfile.BadZipFile, UnicodeDecodeError, zlib.error):
                    damaged.append(name)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, zlib.error) as error:
        raise UsageError(f"{path} is damaged ({error}); copy it again") from error
    if damaged and good:  # torch can be set to write no checksums: then all are wrong
        raise UsageError(f"{path} is damaged: the checksum of '{damaged[0]}' in it is another; copy it again")
    if any(name.endswith("constants.pkl") for name in names):
        raise UsageError(
            f"{path} holds more than tensors (a TorchScript program), and is not loaded; "
            "save the state dict alone: torch.save(model.state_dict(), path)"
        )


def _check_unpacked(archive: zipfile.ZipFile, path: Path) -> None:
    """Check the unpacked size that an archive states: torch's own is not compressed.

    Raises:
        UsageError: more than the limit.
    """
    n_bytes, n_packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if n_bytes > doors.unpacked_limit(n_packed):
        raise doors.above(str(path), f"says that it unpacks to {n_bytes} bytes", "unpacked_mib")


def holds_none(path: Path) -> UsageError:
    """Return the error for a file without a state dict; the message names the code that the file names."""
    more = _named(path) if path.suffix.lower() != SAFETENSORS else ""
    if more:
        return UsageError(
            f"{path} holds more than tensors{more} and no state dict beside it, and is not loaded, since that could "
            "run code in it; save the state dict alone: torch.save(model.state_dict(), path)"
        )
    return UsageError(f"{path} holds no state dict; save it with torch.save(model.state_dict(), path)")


def listed(names: Iterable[str]) -> str:
    """Return the first names, and the number of the others."""
    names = list(names)
    first = ", ".join(f"'{name}'" for name in itertools.islice(names, 3))
    return f"{first} and {len(names) - 3} more" if len(names) > 3 else first
