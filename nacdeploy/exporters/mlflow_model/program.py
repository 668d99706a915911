"""The program of an artifact in MLflow: copied with it, so it imports nothing of this package.

It answers normalised images or named inputs by ONNX Runtime on the CPU, and lets samples leave at exits where the
artifact has them. `model_config["confidence"]` names the gate's rule.
"""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Artifact(PythonModel):
    """See mlflow.pyfunc."""

    _skip_type_hint_validation = True  # MLflow reads hints as a signature; the manifest is the signature

    def load_context(self, context: Any) -> None:
        """Open the artifact's files."""
        folder = Path(context.artifacts["artifact"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self._types = {each["name"]: each["dtype"] for each in manifest["inputs"]}
        gate = manifest.get("gate") or {}
        self._run = _gated(folder, manifest, context.model_config) if gate.get("exits") else _plain(folder, manifest)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the outputs of inputs, arrays by name."""
        given = {name: import_module("numpy").asarray(model_input[name], type_) for name, type_ in self._types.items()}
        return self._run(given)


def _plain(folder: Path, manifest: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    session, names = _session(folder / manifest["model_file"]), [each["name"] for each in manifest["outputs"]]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _gated(
    folder: Path, manifest: Mapping[str, Any], told: Mapping[str, str]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that says which exit answered: segment by segment, or by all outputs of the whole graph."""
    cascades, rule = import_module("cascade"), import_module("confidence").RULES[told["confidence"]]
    thresholds = [each["threshold"] for each in manifest["gate"]["exits"]]
    cut, own = manifest.get("cascade"), manifest["outputs"][0]["name"]
    if cut and cut["form"] != "whole":
        parts = [_segment(folder / part["model_file"], part["outputs"]) for part in cut["segments"]]
        answered = cascades.Cascade(parts, thresholds, rule).run
    else:
        names = [*(each["output"] for each in manifest["gate"]["exits"]), own]
        session = _session(folder / manifest["model_file"])

        def answered(images: Any) -> Any:
            return cascades.gated(session.run(names, {session.get_inputs()[0].name: images}), thresholds, rule)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        (images,) = inputs.values()
        found = answered(images)
        return {own: found.outputs, "exit": found.exits}

    return run


def _segment(file: Path, outputs: list[str]) -> Callable[[Any], list[Any]]:
    session = _session(file)
    name, contiguous = session.get_inputs()[0].name, import_module("numpy").ascontiguousarray
    return lambda carried: session.run(outputs, {name: contiguous(carried)})


def _session(file: Path) -> Any:
    return import_module("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])


set_model(Artifact())
