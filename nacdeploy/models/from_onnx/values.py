"""The values of a graph that is read: tensors, and numbers that tell sizes."""

from typing import Any

from torch import Tensor

from nacdeploy.models.from_onnx.sizes import Sizes

Value = Any


def tensor(value: Value, like: Tensor | None = None) -> Tensor:
    """Return a value as a tensor, where `like` is."""
    found: Tensor = value.tensor() if isinstance(value, Sizes) else value
    return found if like is None else found.to(like.device)


def numbers(value: Value) -> list[Any]:
    """Return the numbers of a constant or of sizes."""
    if isinstance(value, Sizes):
        return list(value.values)
    return list(value) if isinstance(value, list | tuple) else list(value.flatten().tolist())
