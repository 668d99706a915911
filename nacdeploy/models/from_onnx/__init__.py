"""An ONNX file as a torch network: what runs in production without its training code.

`read` gives the graph, `OnnxModule` the module, with torch's own layers under the names of their nodes.
"""

from pathlib import Path

from nacdeploy.models.from_onnx import reading
from nacdeploy.models.from_onnx.module import OnnxModule

__all__ = ["OnnxModule", "module"]


def module(path: Path) -> OnnxModule:
    """Return the network of an ONNX file.

    Raises:
        UsageError: it is no ONNX file, damaged, or has operators that are not read.
    """
    return OnnxModule(reading.read(path).model, str(path))
