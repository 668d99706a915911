"""ONNX Runtime's quantize_static: model.onnx calibration.npy out.onnx ACTIVATIONS [--7bit] [--percentile]."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)


class Images(CalibrationDataReader):
    """Calibration images (N, C, H, W), one at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = ({"images": x[None]} for x in images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def main(model: str, calibration: str, out: str, activations: str, *flags: str) -> None:
    """Per-channel weights, Q/DQ format, after the preprocessing that its documentation asks for."""
    prepared = Path(out).with_suffix(".pre.onnx")
    quant_pre_process(model, str(prepared))
    percentile = "--percentile" in flags
    quantize_static(
        str(prepared),
        out,
        Images(np.load(calibration)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range="--7bit" in flags,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
        extra_options={"CalibPercentile": 99.99} if percentile else {},
    )
    prepared.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
