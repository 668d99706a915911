"""Weights below the smallest normal number, 1.2e-38 for float32: what decay leaves of dead channels.

Processors multiply such numbers many times slower than others (of PP-OCRv6's detector two layers took 70 of its 100 ms
on an Intel Xeon), and no answer feels them. So they are read, and written, as zeros. Tensors of one axis or none keep
them: a scale or a tiny number against division by zero is no product's factor. So does half precision, where numbers
from 6e-5 down are denormal and weights like others.
"""

import torch
from torch import Tensor


def is_denormal(values: Tensor) -> Tensor:
    """Return where weights are denormal, of the shape of `values`; nowhere in what is no matrix of floats."""
    if values.dim() < 2 or values.dtype not in (torch.float32, torch.float64):
        return torch.zeros_like(values, dtype=torch.bool)
    return (values != 0) & (values.abs() < torch.finfo(values.dtype).tiny)


def flushed(values: Tensor) -> Tensor:
    """Return weights with zeros in place of those that are denormal."""
    found = is_denormal(values)
    return values.masked_fill(found, 0) if found.any() else values
