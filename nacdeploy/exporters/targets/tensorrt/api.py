"""The one adapter of `tensorrt` (10 and 11) and `tensorrt_rtx`: which of them is here, and how it tells its errors.

Both have one Python API. TensorRT builds for the GPU it runs on, by timing, and keeps its timings in a cache;
TensorRT-RTX builds ahead of time for the compute capabilities it is told and compiles the rest where it runs.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from nacdeploy.base.errors import MissingExtraError, NacdeployError

BuilderName = Literal["auto", "tensorrt", "tensorrt_rtx"]

# TensorRT's own types, whose bindings no type checker can read. tests/exporters/targets/test_binding_signatures.py
# follows these names through the source and checks what is called on them against the real wheels.
Trt = Any
Builder = Any
EngineInspector = Any
IBuilderConfig = Any
ICudaEngine = Any
IExecutionContext = Any
ILogger = Any
INetworkDefinition = Any
OnnxParser = Any
ParserError = Any
Runtime = Any

_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_NEEDS = {
    "auto": ("tensorrt", "trt", "building TensorRT engines"),
    "tensorrt": ("tensorrt", "trt", "building engines with TensorRT itself"),
}


@dataclass(frozen=True)
class Api:
    """One of the two modules: `name` as it is imported, and a logger that keeps the error lines."""

    name: str
    trt: Trt
    logger: Any

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        return _TITLES[self.name]

    @property
    def builds_ahead(self) -> bool:
        """Whether it builds for GPUs that are not here."""
        return self.name == "tensorrt_rtx"

    def last_error(self) -> str:
        errors = self.logger.errors
        return " ".join(errors[-1].split()) if errors else "it gives no reason"


def load(builder: BuilderName | str = "auto") -> Api:
    """The module that builds or runs engines here; "auto" is TensorRT where it imports, else TensorRT-RTX.

    Raises:
        MissingExtraError: TensorRT is asked for, or either, and not installed.
        NacdeployError: TensorRT-RTX is asked for and not installed.
    """
    for name in _TITLES if builder == "auto" else (builder,):
        try:
            trt = importlib.import_module(name)
        except (ImportError, OSError):  # OSError: the bindings are there, NVIDIA's libraries are not
            continue
        return Api(name, trt, _logger_class(trt)())
    if builder in _NEEDS:
        raise MissingExtraError(*_NEEDS[builder])
    raise NacdeployError("TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13 (Linux on x86-64 only)")


@cache
def _logger_class(trt: Trt) -> Any:
    """A logger that prints nothing and keeps the error lines, as a subclass that the module's bindings ask for."""

    class ErrorLines(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return ErrorLines
