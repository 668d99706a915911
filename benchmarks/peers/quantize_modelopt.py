"""nvidia-modelopt's ONNX PTQ, INT8: model.onnx calibration.npy out.onnx HIGH_PRECISION [METHOD].

Its default turns what stays in float to FP16, which no x86 kernel of ONNX Runtime runs: "fp32" keeps it.
"""

import sys

import numpy as np
from modelopt.onnx.quantization import quantize


def main(model: str, calibration: str, out: str, high_precision: str, method: str | None = None) -> None:
    """All else is its own default; calibration on the CPU, as there is no GPU."""
    quantize(
        model,
        quantize_mode="int8",
        calibration_data={"images": np.load(calibration)},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype=high_precision,
        output_path=out,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
