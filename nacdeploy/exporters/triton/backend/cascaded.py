"""model.py of Triton's Python backend: the business logic of a cascade. Segments are models of their own, which the
server runs; the gate between them is here. Samples that are sure leave the batch.

Parameters of config.pbtxt: `segments` (JSON: model, input and outputs of each), `thresholds` (JSON), `confidence`, and
`exit_output` (which exit answered).
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
        """Read the segments and thresholds."""
        self._triton = import_module("triton_python_backend_utils")
        self._answered = import_module("served.batching").answered
        self._numpy = import_module("numpy")
        cascades, rules = import_module("served.cascade"), import_module("served.confidence").RULES
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._inputs = [each["name"] for each in config["input"]]
        self._answer = config["output"][0]["name"]
        self._exit = told["exit_output"]
        segments = [self._segment(**each) for each in json.loads(told["segments"])]
        self._cascade = cascades.Cascade(segments, json.loads(told["thresholds"]), rules[told["confidence"]])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, those that fit together as one batch."""
        found: list[Any] = self._answered(self._triton, requests, self._inputs, self._run, True)
        return found

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        (images,) = inputs.values()
        found = self._cascade.run(images)
        return {self._answer: found.outputs, self._exit: found.exits}

    def _segment(self, model: str, input: str, outputs: list[str]) -> Any:
        def run(x: Any) -> list[Any]:
            request = self._triton.InferenceRequest(
                model_name=model,
                requested_output_names=outputs,
                inputs=[self._triton.Tensor(input, self._numpy.ascontiguousarray(x))],
            )
            response = request.exec()
            if response.has_error():
                raise RuntimeError(f"{model}: {response.error().message()}")
            return [self._triton.get_output_tensor_by_name(response, name).as_numpy() for name in outputs]

        return run
