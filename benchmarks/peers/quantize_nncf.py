"""NNCF's PTQ to an OpenVINO model: model.onnx calibration.npy out.xml PRESET [MODEL_TYPE]."""

import sys

import nncf
import numpy as np
import openvino


def main(model: str, calibration: str, out: str, preset: str, model_type: str | None = None) -> None:
    """NNCF's defaults but for the preset; every calibration image is seen."""
    images = np.load(calibration)
    quantized = nncf.quantize(
        openvino.Core().read_model(model),
        nncf.Dataset([x[None] for x in images]),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(images),
        target_device=nncf.TargetDevice.CPU,
        model_type=nncf.ModelType(model_type) if model_type else None,
    )
    openvino.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
