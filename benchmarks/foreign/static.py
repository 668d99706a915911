"""ONNX Runtime's quantize_static on the same weights and images: what a quantiser of today reaches without training."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)
from torch import Tensor, nn

from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.testing.foreign import Foreign, outputs
from nacdeploy.testing.right import Reference, decibels

LARGEST_FILE_BYTES = 1.9e9


class _Images(CalibrationDataReader):
    def __init__(self, images: NDArray[Any]) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({"images": x[None]} for x in images)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def reference(foreign: Foreign) -> Reference:
    """The dB of quantize_static (per channel, U8S8, Q/DQ) against a float network, found once for each network."""
    known: dict[int, float] = {}

    def db(plain: nn.Module) -> float:
        if id(plain) not in known:
            known[id(plain)] = _db(plain, foreign)
        return known[id(plain)]

    return db


def _db(plain: nn.Module, foreign: Foreign) -> float:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            path = quantized(plain, foreign.calibration, Path(folder))
        images = foreign.images()
        answer = torch.from_numpy(OnnxRunner(path).run(images.numpy())[0])
        return decibels(outputs(plain, images), answer)


def quantized(plain: nn.Module, calibration: Tensor, folder: Path) -> Path:
    """The ONNX file of a float network (images (N, C, H, W) to logits) after quantize_static on normalised images."""
    exported, prepared, written = (folder / f"{name}.onnx" for name in ("exported", "prepared", "written"))
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    example = (calibration[:2],)
    torch.onnx.export(plain, example, str(exported), dynamo=True, input_names=["images"], dynamic_shapes=(batch,))
    is_large = sum(p.numel() * p.element_size() for p in plain.parameters()) > LARGEST_FILE_BYTES
    with suppress(Exception):  # its shape inference gives up on some graphs; what it prepares is then left out
        quant_pre_process(str(exported), str(prepared), save_as_external_data=is_large)
    source = prepared if prepared.exists() else exported
    quantize_static(
        str(source),
        str(written),
        _Images(np.ascontiguousarray(calibration.numpy())),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=is_large,
    )
    return written
