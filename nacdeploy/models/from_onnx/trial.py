"""A trial of a cut: both sides run on zeros, in two batches, so that shapes tell what is a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from nacdeploy.models.from_onnx.graph.links import Samples
from nacdeploy.models.from_onnx.module import OnnxModule, UnreadError
from nacdeploy.models.from_onnx.running import Part

_BATCHES = (1, 3)  # one alone: a squeezed batch is no sample


@dataclass(frozen=True)
class Zeros:
    """Runs parts of a file.

    Attributes:
        shapes: of the file's inputs; without the batch for those that are samples.
        kinds: the types of the inputs as ONNX numbers them.
        samples: the inputs that have the batch first.
        inner: an axis of each other input that is its batch.
        batch: the only batch that the file takes; None for any.
    """

    where: str
    shapes: Mapping[str, Sequence[int]]
    kinds: Mapping[str, int]
    samples: tuple[str, ...]
    inner: Mapping[str, int]
    batch: int | None

    def before(self, part: onnx.ModelProto | None) -> Samples:
        """Return the samples among the outputs of a part, and the inputs of the file that are samples."""
        own = {name: (tuple(self.shapes[name]), self.kinds[name]) for name in self.samples}
        if part is None:
            return own
        run = Part(part, self.where)
        found = [run.run(self._feeds(n)) for n in self._sizes()]
        return {**own, **_samples(found, self._sizes())}

    def network(self, part: onnx.ModelProto) -> tuple[Samples, Mapping[str, str]]:
        """Return the tensors of a network that are samples, or the nodes that it cannot hold."""
        try:
            module = OnnxModule(part, self.where)
            found = [self._traced(module, part, n) for n in _BATCHES]
        except UnreadError as error:
            return {}, error.nodes
        return _samples(found, _BATCHES), {}

    def _sizes(self) -> tuple[int, ...]:
        return _BATCHES if self.batch is None else (self.batch,)

    def _feeds(self, n: int) -> dict[str, NDArray]:
        return {name: np.zeros(self._shape(name, n), _dtype(self.kinds[name])) for name in self.shapes}

    def _shape(self, name: str, n: int) -> tuple[int, ...]:
        if name in self.samples:
            return (n, *self.shapes[name])
        return tuple(n if axis == self.inner.get(name) else size for axis, size in enumerate(self.shapes[name]))

    def _traced(self, module: OnnxModule, part: onnx.ModelProto, n: int) -> dict[str, NDArray]:
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim[1:]] for value in part.graph.input}
        kinds = {value.name: value.type.tensor_type.elem_type for value in part.graph.input}
        given = [torch.from_numpy(np.zeros((n, *shapes[name]), _dtype(kinds[name]))) for name in module.input_names]
        with torch.no_grad():
            return module.trace(*given, kept=_outline)


def _outline(value: Tensor) -> NDArray:
    """Return an array of the shape and type of a tensor that takes no memory."""
    return np.broadcast_to(np.zeros((), value.numpy().dtype), tuple(value.shape))


def _dtype(kind: int) -> Any:
    return helper.tensor_dtype_to_np_dtype(kind)


def _samples(found: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> Samples:
    """Return what has the batch first and else the same shape in every batch."""
    made = {}
    for name in found[0]:
        arrays = [each[name] for each in found]
        if any(not isinstance(each, np.ndarray) or each.ndim < 1 for each in arrays):
            continue
        first, rest = [each.shape[0] for each in arrays], {each.shape[1:] for each in arrays}
        if first == list(sizes) and len(rest) == 1 and 0 not in arrays[0].shape and arrays[0].dtype.kind in "fiub":
            made[name] = arrays[0].shape[1:], helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    return made
