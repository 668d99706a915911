"""Exact differences between tensors: a tensor that training changed little takes fewer bytes, and comes back bit by
bit.

The bits of two tensors are subtracted as integers. A weight that moved little keeps sign, exponent and leading mantissa
bits, so that the difference is small; zigzag code (as in Protocol Buffers) makes it small and positive, and its bytes
are laid out plane by plane, the empty high ones together, before zstd compresses them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import zstandard
from torch import Tensor

Cut = tuple[tuple[int, tuple[int, ...]], ...]
_LEVEL = 1


def digest(tensor: Tensor) -> str:
    """128 bits of the sha256 of a tensor's type, shape and bytes, in hex."""
    found = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(_flat(tensor).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def difference(tensor: Tensor, base: Tensor) -> bytes:
    """Return the bytes that turn `base` into `tensor`, of the same type and shape; near tensors give few bytes."""
    step = _integers(tensor) - _integers(base)
    n_bits = 8 * step.itemsize
    code = (step << _like(step, 1)) ^ (_like(step, 0) - (step >> _like(step, n_bits - 1)))
    planes = code.view(np.uint8).reshape(-1, step.itemsize).T
    return zstandard.ZstdCompressor(level=_LEVEL).compress(planes.tobytes())


def restored(changes: bytes, base: Tensor) -> Tensor:
    """Return the tensor that `difference` was given.

    Raises:
        ValueError: the bytes are no difference to a tensor of this size.
    """
    before = _integers(base)
    try:
        planes = np.frombuffer(zstandard.ZstdDecompressor().decompress(changes), np.uint8)
    except zstandard.ZstdError as error:
        raise ValueError(f"no difference: {error}") from error
    code = planes.reshape(before.itemsize, before.size).T.copy().view(before.dtype).reshape(-1)
    step = (code >> _like(code, 1)) ^ (_like(code, 0) - (code & _like(code, 1)))
    return torch.from_numpy((before + step).view(np.uint8)).view(base.dtype).reshape(base.shape)


def cut(tensor: Tensor, kept: Cut) -> Tensor:
    """Slice a tensor to the remaining indices, by axis."""
    for axis, indices in kept:
        tensor = tensor.index_select(axis, torch.tensor(indices))
    return tensor


def composed(first: Cut, second: Cut) -> Cut:
    """Join two cuts into one: `cut(x, composed(first, second))` is `cut(cut(x, first), second)`."""
    axes = dict(first)
    for axis, indices in second:
        axes[axis] = tuple(axes[axis][i] for i in indices) if axis in axes else indices
    return tuple(sorted(axes.items()))


def as_cut(slices: Sequence[tuple[int, Sequence[int]]]) -> Cut:
    """Join slices of one tensor, in the order of their making, into one cut."""
    kept: Cut = ()
    for axis, indices in slices:
        kept = composed(kept, ((axis, tuple(indices)),))
    return kept


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1)


def _integers(tensor: Tensor) -> np.ndarray:
    """Return the bits of a tensor as unsigned integers of its own width, (N,)."""
    width = min(tensor.element_size(), 8)
    return _flat(tensor).view(torch.uint8).numpy().view(f"u{width}")


def _like(array: np.ndarray, value: int) -> np.generic:
    return array.dtype.type(value)
