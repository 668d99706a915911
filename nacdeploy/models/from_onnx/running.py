"""The float parts of a file, and the file itself, in ONNX Runtime: what torch cannot hold is run where it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from nacdeploy.base.errors import UsageError


class Part:
    """A graph that runs as it is, on one thread.

    Raises:
        UsageError: ONNX Runtime does not take it.
    """

    def __init__(self, model: onnx.ModelProto | Path, where: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._where = where
        given = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no class
            raise UsageError(f"{where}: ONNX Runtime does not load it: {_line(error)}") from error
        self.input_names = [each.name for each in self._session.get_inputs()]
        self.output_names = [each.name for each in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, Any]:
        """Return the outputs by name; what the graph does not take is left out.

        Raises:
            UsageError: it fails on these inputs.
        """
        taken = {name: np.ascontiguousarray(feeds[name]) for name in self.input_names}
        try:
            found = self._session.run(None, taken)
        except Exception as error:
            shapes = ", ".join(f"'{name}' {x.shape} {x.dtype}" for name, x in taken.items())
            raise UsageError(f"{self._where} fails in ONNX Runtime on {shapes}: {_line(error)}") from error
        return dict(zip(self.output_names, found, strict=True))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
