"""The functions of target onnx: none of its own; ONNX Runtime stands in where a runtime is needed."""

from nacdeploy.exporters.targets.ort.runner import version
from nacdeploy.exporters.targets.runtime import Runtime

RUNTIME = Runtime(version=version)
