"""The float parts of a file, and the file itself, in ONNX Runtime: what torch cannot hold is run where it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from nacdeploy.base.errors import UsageError

_FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


class Part:
    """A graph that runs on one thread, as it is or optimised. It takes arrays of any kind of floats.

    Raises:
        UsageError: ONNX Runtime does not take it.
    """

    def __init__(self, model: onnx.ModelProto | Path, where: str, *, is_optimized: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if is_optimized else levels.ORT_DISABLE_ALL
        self._where = where
        given = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no class
            raise UsageError(f"{where}: ONNX Runtime does not load it: {_line(error)}") from error
        self._types = {each.name: _FLOATS.get(each.type) for each in self._session.get_inputs()}
        self.output_names = [each.name for each in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, Any]:
        """Return the outputs by name; what the graph does not take is left out.

        Raises:
            UsageError: it fails on these inputs.
        """
        taken = {name: np.ascontiguousarray(feeds[name], dtype=kind) for name, kind in self._types.items()}
        try:
            found = self._session.run(None, taken)
        except Exception as error:
            shapes = ", ".join(f"'{name}' {x.shape} {x.dtype}" for name, x in taken.items())
            raise UsageError(f"{self._where} fails in ONNX Runtime on {shapes}: {_line(error)}") from error
        return dict(zip(self.output_names, found, strict=True))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
