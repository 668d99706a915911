"""Trees of tensors and plain data as bytes with their own hash, without pickle: safetensors, and JSON for the rest."""

import hashlib
import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

SCHEMA_VERSION = 1
_N_HASH, _ABOUT = 32, "tree"


class DamagedError(Exception):
    """The bytes are not what was written."""


def packed(tree: Any, key: str) -> bytes:
    """Return the bytes of a tree of dictionaries, lists, tensors, numbers, texts and None, known by `key`."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"schema": SCHEMA_VERSION, "key": key, "tree": _plain(tree, tensors)})
    about = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    content = save({**tensors, _ABOUT: about})
    return hashlib.sha256(content).digest() + content


def unpacked(data: bytes, key: str) -> Any:
    """Return the tree that `packed` made bytes of, under the same key.

    Raises:
        DamagedError: the bytes, or their key, are others.
    """
    if hashlib.sha256(data[_N_HASH:]).digest() != data[:_N_HASH]:
        raise DamagedError("its content does not have its hash")
    try:
        tensors = load(data[_N_HASH:])
        found = json.loads(tensors.pop(_ABOUT).numpy().tobytes())
        if (found["schema"], found["key"]) != (SCHEMA_VERSION, key):
            raise DamagedError("it is that of another training")
        return _tree(found["tree"], tensors)
    except (SafetensorError, RecursionError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"it is none that was written here ({type(error).__name__})") from error


def _plain(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[_plain(key, tensors), _plain(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_plain(each, tensors) for each in tree]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{type(tree).__name__} is no plain data")


def _tree(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_tree(each, tensors) for each in plain]
    if isinstance(plain, dict) and "tensor" in plain:
        return tensors[plain["tensor"]]
    if isinstance(plain, dict):
        return {_tree(key, tensors): _tree(value, tensors) for key, value in plain["dict"]}
    return plain
