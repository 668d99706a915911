"""The tensors in a file: the positions of their bytes in safetensors and in ONNX. Other files have no known tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.coding.codec import ITEM_BYTES, Tensor
from nacdeploy.coding.container import Cut

MIN_BYTES = 256  # below, a row of the header costs more than coding saves
_ONNX_TYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    16: "BF16",
}


def cut(folder: Path) -> list[Cut]:
    """Read every file of a folder, or the one file, and cut out the tensors.

    Raises:
        NacdeployError: nothing is there, or a file cannot be read.
    """
    paths = [folder] if folder.is_file() else sorted(_files(folder))
    if not paths:
        raise NacdeployError(f"{folder} holds no file to encode")
    root = folder.parent if folder.is_file() else folder
    try:
        return [_cut(path, path.relative_to(root).as_posix()) for path in paths]
    except OSError as error:
        raise NacdeployError(f"{error.filename} cannot be read: {error.strerror}") from error


def _files(folder: Path) -> Iterator[Path]:
    """Return the files of a folder.

    Raises:
        NacdeployError: something in it leads out of it, or could not be restored.
    """
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise NacdeployError(f"{path} is a link that leads out of {folder}; put the file there in its place")
        if path.is_symlink() and not path.is_file():
            raise NacdeployError(f"{path} is a link to no file, which 'decode' could not restore; remove it")
        if not path.is_file() and not path.is_dir():
            raise NacdeployError(f"{path} is no regular file, and 'decode' could not restore it; remove it")
        if path.is_file():
            yield path


def _cut(path: Path, name: str) -> Cut:
    data = doors.read_bytes(path)
    find = {".safetensors": _in_safetensors, ".onnx": _in_onnx}.get(path.suffix)
    if find is None:
        return Cut(name, data)
    try:
        found = [(start, tensor) for start, tensor in find(data) if len(tensor.data) >= MIN_BYTES]
    except (ValueError, UsageError) as error:
        raise NacdeployError(f"{path} is damaged, and cannot be encoded ({error})") from error
    return Cut(name, data, tuple(sorted(found, key=lambda each: each[0])))


def _in_safetensors(data: bytes) -> Iterator[tuple[int, Tensor]]:
    """Yield tensors by the format of safetensors: a length of 8 bytes, a JSON header with offsets, the bytes of all
    tensors."""
    n = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n > len(data) - 8:
        raise ValueError("no header")
    plain = doors.json_of(data[8 : 8 + n], "its header")
    if not isinstance(plain, dict):
        raise ValueError("no header")
    tensors = {name: about for name, about in plain.items() if name != "__metadata__"}
    end = 8 + n
    found = records.from_data(dict[str, _Place], tensors, "its header")
    for name, place in sorted(found.items(), key=lambda each: each[1].data_offsets):
        start, last, end = 8 + n + place.data_offsets[0], end, 8 + n + place.data_offsets[1]
        if end > len(data):
            raise ValueError(f"the bytes of '{name[:80]}' are cut off")
        if not last <= start <= end:
            raise ValueError(f"the bytes of '{name[:80]}' are those of another")
        yield start, _tensor(name, place.dtype, place.shape, data[start:end])


def _in_onnx(data: bytes) -> Iterator[tuple[int, Tensor]]:
    """Yield the initializers with raw data, searched in the order in which protobuf writes them."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    end = 0
    for each in model.graph.initializer:
        raw = each.raw_data
        if len(raw) < MIN_BYTES:
            continue
        start = data.find(raw, end)
        if start >= 0:
            end = start + len(raw)
            yield start, _tensor(each.name, _ONNX_TYPES.get(each.data_type, "U8"), list(each.dims), raw)


@dataclass(frozen=True)
class _Place:
    """The entry of a tensor in the header of safetensors."""

    dtype: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    data_offsets: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


def _tensor(name: str, dtype: str, shape: Sequence[int], data: bytes) -> Tensor:
    """Return a tensor, as plain bytes if its type packs several elements into one byte."""
    if dtype not in ITEM_BYTES or prod(shape) * ITEM_BYTES[dtype] != len(data) or min(shape, default=0) < 0:
        return Tensor(name, "U8", (len(data),), data)
    return Tensor(name, dtype, tuple(shape), data)
