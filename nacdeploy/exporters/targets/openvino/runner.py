"""OpenVinoRunner: a model in OpenVINO on the CPU, and the IR that OpenVINO makes of an ONNX graph."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base import folders
from nacdeploy.base.errors import MissingExtraError, NacdeployError
from nacdeploy.base.latency import Subject
from nacdeploy.exporters.targets.openvino.fusing import fuse_pairs
from nacdeploy.exporters.targets.ort.runner import Given


@dataclass(frozen=True)
class Ir:
    """OpenVINO's intermediate representation: the graph in XML, and its weights."""

    xml: bytes
    weights: bytes


class OpenVinoRunner:
    """A model compiled for each shape of images that it is given: fixed shapes run faster than a free batch.

    Float parts are computed in FP32, as the graph holds them: on some CPUs OpenVINO would take BF16. Threads are not
    pinned to cores, since runners that are timed in turns would share one core.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        NacdeployError: the model is missing, damaged or not supported.
    """

    compiles_shapes = True

    def __init__(self, model: Path | bytes | Ir, *, threads: int = 1) -> None:
        """Compile `model`: an IR file beside its weights, the bytes of an ONNX model, or an IR."""
        where = str(model) if isinstance(model, Path) else "the model"
        self._threads = threads
        self._requests: dict[Any, Any] = {}
        with _failing_in_one_line(f"load {where}"):
            self._model = _read(ir_from_onnx(model) if isinstance(model, bytes) else model)
            self.output_names: tuple[str, ...] = tuple(output.get_any_name() for output in self._model.outputs)
            self._types = {each.get_any_name(): each.get_element_type().to_dtype() for each in self._model.inputs}

    def run(self, images: Given) -> list[NDArray[Any]]:
        """Return all outputs for images (N, C, H, W), or for several inputs by name.

        Raises:
            NacdeployError: the images do not have the shape that the model takes.
        """
        named = images if isinstance(images, Mapping) else {next(iter(self._types)): images}
        feeds = {name: np.ascontiguousarray(x, dtype=self._types.get(name)) for name, x in named.items()}
        shapes = {name: x.shape for name, x in feeds.items()}
        with _failing_in_one_line(f"run images of shape {', '.join(map(str, shapes.values()))}"):
            key = tuple(shapes.items())
            if key not in self._requests:
                self._requests[key] = self._compiled(shapes).create_infer_request()
            return list(self._requests[key].infer(feeds, share_inputs=True).values())

    def subject(self, images: Given) -> Subject:
        """Return the call to be timed: from array to arrays."""
        return Subject(partial(self.run, images))

    def _compiled(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        model = self._model.clone()
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        return _core().compile_model(model, "CPU", options)


def ir_from_onnx(model: bytes) -> Ir:
    """Convert an ONNX model with a free batch to an IR in FP32, to the same bytes each time.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        NacdeployError: OpenVINO cannot read the model.
    """
    with _failing_in_one_line("convert the ONNX model"), folders.scratch() as folder:
        read = _core().read_model(io.BytesIO(model))
        fuse_pairs(read, package())
        _name_by_position(read)
        package().save_model(read, Path(folder) / "ir.xml", compress_to_fp16=False)
        return Ir((Path(folder) / "ir.xml").read_bytes(), (Path(folder) / "ir.bin").read_bytes())


def package() -> Any:
    """Import OpenVINO itself.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "target openvino") from error
    return openvino


def version() -> str:
    """Return the builder of the IR: "OpenVINO 2026.4.1"."""
    return f"OpenVINO {package().__version__.split('-')[0]}"


@cache
def _core() -> Any:
    return package().Core()


def _read(model: Path | Ir) -> Any:
    if isinstance(model, Path):
        return _core().read_model(model)
    return _core().read_model(model=model.xml, weights=model.weights)


def _name_by_position(model: Any) -> None:
    """Number nodes without a name of their own by their position; OpenVINO numbers them by a counter of the process."""
    for position, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name().startswith(f"{node.get_type_name()}_"):
            node.set_friendly_name(f"{node.get_type_name()}_{position}")


@contextmanager
def _failing_in_one_line(what: str) -> Iterator[None]:
    """Raise OpenVINO's RuntimeErrors of several lines as one: the last line says what happened, the first where."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise NacdeployError(f"OpenVINO cannot {what}: {lines[-1] if lines else 'no reason given'}") from error
