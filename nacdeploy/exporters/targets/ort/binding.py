"""Buffers on a device, bound to an ONNX Runtime session for one shape of images: no hidden copy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}


class Binding:
    """The input and outputs of `session` as torch tensors on `device` ("cpu", "cuda"), at fixed addresses.

    A free dimension of an output is the batch.
    """

    def __init__(self, session: Any, shape: tuple[int, ...], device: str) -> None:
        import torch

        self._session, self._binding = session, session.io_binding()
        (source,) = session.get_inputs()
        self.input = torch.empty(shape, dtype=getattr(torch, _TYPES[source.type]), device=device)
        self.outputs = [
            torch.empty(_fixed(output.shape, shape[0]), dtype=getattr(torch, _TYPES[output.type]), device=device)
            for output in session.get_outputs()
        ]
        self._bind(self._binding.bind_input, source, self.input)
        for output, buffer in zip(session.get_outputs(), self.outputs, strict=True):
            self._bind(self._binding.bind_output, output, buffer)

    def load(self, images: NDArray[Any]) -> None:
        """Copy images into the input's buffer."""
        import torch

        self.input.copy_(torch.from_numpy(np.ascontiguousarray(images)))

    def enqueue(self) -> None:
        """Run on the buffers; on a GPU with a stream the call returns before the run is done."""
        self._session.run_with_iobinding(self._binding)

    def read(self) -> list[NDArray[Any]]:
        """Return copies of the outputs."""
        return [buffer.cpu().clone().numpy() for buffer in self.outputs]

    def _bind(self, bind: Any, tensor: Any, buffer: Any) -> None:
        kind = np.dtype(_TYPES[tensor.type]).type
        bind(tensor.name, buffer.device.type, 0, kind, tuple(buffer.shape), buffer.data_ptr())


def _fixed(shape: list[int | str | None], batch: int) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else batch for size in shape)
