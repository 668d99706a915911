"""The tensors in a file: the positions of their bytes in safetensors and in ONNX. Other files have no known tensors."""

import json
from collections.abc import Iterator
from pathlib import Path

from nacdeploy.base.errors import NacdeployError
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
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise NacdeployError(f"{folder} holds no file to encode")
    root = folder.parent if folder.is_file() else folder
    try:
        return [_cut(path, path.relative_to(root).as_posix()) for path in paths]
    except OSError as error:
        raise NacdeployError(f"{error.filename} cannot be read: {error.strerror}") from error


def _cut(path: Path, name: str) -> Cut:
    data = path.read_bytes()
    find = {".safetensors": _in_safetensors, ".onnx": _in_onnx}.get(path.suffix)
    if find is None:
        return Cut(name, data)
    try:
        found = [(start, tensor) for start, tensor in find(data) if len(tensor.data) >= MIN_BYTES]
    except (ValueError, KeyError, TypeError) as error:
        raise NacdeployError(f"{path} is damaged, and cannot be encoded ({error})") from error
    return Cut(name, data, tuple(sorted(found, key=lambda each: each[0])))


def _in_safetensors(data: bytes) -> Iterator[tuple[int, Tensor]]:
    """Yield tensors by the format of safetensors: a length of 8 bytes, a JSON header with offsets, the bytes of all
    tensors."""
    n = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n > len(data) - 8:
        raise ValueError("no header")
    for name, about in json.loads(data[8 : 8 + n]).items():
        if name != "__metadata__":
            start, end = (8 + n + offset for offset in about["data_offsets"])
            if end > len(data):
                raise ValueError(f"the bytes of '{name}' are cut off")
            yield start, _tensor(name, about["dtype"], about["shape"], data[start:end])


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


def _tensor(name: str, dtype: str, shape: list[int], data: bytes) -> Tensor:
    """Return a tensor, as plain bytes if its type packs several elements into one byte."""
    n = 1
    for length in shape:
        n *= length
    if dtype not in ITEM_BYTES or n * ITEM_BYTES[dtype] != len(data):
        return Tensor(name, "U8", (len(data),), data)
    return Tensor(name, dtype, tuple(shape), data)
