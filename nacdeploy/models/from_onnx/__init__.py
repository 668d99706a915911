"""An ONNX file as a torch network: what runs in production without its training code.

`read` gives the graph, `OnnxModule` the module, with torch's own layers under the names of their nodes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nacdeploy.models.from_onnx import reading
from nacdeploy.models.from_onnx.module import OnnxModule

__all__ = ["OnnxModule", "digest", "is_onnx", "module", "path_of"]


PREFIX, SUFFIX = "onnx:", ".onnx"


def is_onnx(name: str) -> bool:
    """Tell whether a model's name names an ONNX file: `net.onnx` or `onnx:PATH`."""
    return name.startswith(PREFIX) or name.endswith(SUFFIX)


def path_of(name: str) -> Path:
    """Return the file that a model's name names."""
    return Path(name.removeprefix(PREFIX)).expanduser()


def digest(name: str) -> str:
    """Return the sha256 of a file with all its values.

    Raises:
        UsageError: it is not there, or its values are missing.
    """
    return hashlib.sha256(reading.content(path_of(name))).hexdigest()


def module(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> OnnxModule:
    """Return the network of an ONNX file, for inputs of certain shapes (without the batch) where the file leaves them
    open.

    Raises:
        UsageError: it is no ONNX file, damaged, or has operators that are not read.
    """
    return OnnxModule(reading.read(path, shapes).model, str(path))
