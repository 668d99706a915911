"""model.py of Triton's Python backend: one graph in ONNX Runtime or OpenVINO on the CPU.

Parameters of config.pbtxt: `file` (beside this one), `threads`, `batched`.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# Triton's interpreter ignores PYTHONPATH; here it counts, so that packages need not lie in the system's Python.
sys.path[:0] = [str(Path(__file__).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


class TritonPythonModel:
    """See Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        self._triton = import_module("triton_python_backend_utils")
        self._answered = import_module("served.batching").answered
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._inputs = [each["name"] for each in config["input"]]
        self._batched = told["batched"] == "1"
        outputs = [each["name"] for each in config["output"]]
        opened = import_module("served.runtimes").opened
        self._run = opened(Path(__file__).with_name(told["file"]), outputs, int(told["threads"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, those that fit together as one batch."""
        found: list[Any] = self._answered(self._triton, requests, self._inputs, self._run, self._batched)
        return found
