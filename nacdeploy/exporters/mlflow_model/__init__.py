"""An artifact as a model of MLflow: its signature, and the program that answers from its folder."""

from importlib import resources
from pathlib import Path

from nacdeploy.base.tracking import Served, Tensor
from nacdeploy.cascades.confidence import RULES
from nacdeploy.exporters.artifacts.artifact import Manifest, TensorInfo
from nacdeploy.metrics import gate_of

EXIT = Tensor("exit", (-1,), "int64")
NEEDS = ("mlflow-skinny", "pandas", "numpy", "onnxruntime")


def served(manifest: Manifest) -> Served | None:
    """Return how MLflow serves an artifact; None where the gate's rule is the metric's own, which no other program has.

    Where there is a gate, the answers and the exit that answered are the outputs; else all of the graph's.
    """
    gated = manifest.gate is not None and bool(manifest.gate.exits)
    if gated and rule_name(manifest) not in RULES:
        return None
    outputs = tuple(_tensor(each) for each in manifest.outputs)
    cascades = Path(str(resources.files("nacdeploy.cascades")))
    return Served(
        inputs=tuple(_tensor(each) for each in manifest.inputs),
        outputs=(outputs[0], EXIT) if gated else outputs,
        program=Path(__file__).with_name("program.py"),
        modules=(cascades / "cascade.py", cascades / "confidence.py"),
        needs=NEEDS,
        settings={"confidence": rule_name(manifest)} if gated else {},
    )


def rule_name(manifest: Manifest) -> str:
    """Return the name of the rule by which the gate rates outputs."""
    return (manifest.gate.confidence if manifest.gate else "") or gate_of(manifest.metric)


def _tensor(info: TensorInfo) -> Tensor:
    return Tensor(info.name, tuple(each if isinstance(each, int) else -1 for each in info.shape), info.dtype)
