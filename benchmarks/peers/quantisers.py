"""The peers that quantise a trained network without training: their settings, and the files they leave."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import run_script
from benchmarks.peers.timing import Subject


@dataclass(frozen=True)
class Setting:
    """One way to call a peer: the row's name, the script, what follows the three file names, the file it leaves."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()
    environment: str = "own"
    runtime: str = "onnxruntime"

    @property
    def file(self) -> str:
        suffix = ".xml" if self.runtime == "openvino" else ".onnx"
        return "-".join((Path(self.script).stem, *self.arguments)).replace("--", "") + suffix


STATIC = (
    Setting("ORT quantize_static U8S8", "quantize_static.py", ("QUInt8",)),
    Setting("ORT quantize_static U8S8, 7 bit", "quantize_static.py", ("QUInt8", "--7bit")),
    Setting("ORT quantize_static U8S8, percentile", "quantize_static.py", ("QUInt8", "--percentile")),
    Setting("ORT quantize_static S8S8", "quantize_static.py", ("QInt8",)),
)
MODELOPT = (
    Setting("modelopt INT8, FP32 rest", "quantize_modelopt.py", ("fp32",), "modelopt"),
    Setting("modelopt INT8, FP32 rest, max", "quantize_modelopt.py", ("fp32", "max"), "modelopt"),
    Setting("modelopt INT8, its default FP16 rest", "quantize_modelopt.py", ("fp16",), "modelopt"),
)
NNCF = (
    Setting("NNCF + OpenVINO INT8", "quantize_nncf.py", ("performance",), "openvino", "openvino"),
    Setting("NNCF + OpenVINO INT8, mixed preset", "quantize_nncf.py", ("mixed",), "openvino", "openvino"),
)


def quantised(
    settings: Sequence[Setting], model: Path, calibration: Path, place: Path, environments: Path
) -> list[Subject]:
    """The subjects of some settings; what was quantised before is reused. A peer that fails is said and left out."""
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for setting in settings:
        out = (place / setting.file).absolute()
        try:
            if not out.is_file():
                files = (str(model.absolute()), str(calibration.absolute()), str(out))
                run_script(setting.environment, environments, setting.script, *files, *setting.arguments)
        except RuntimeError as error:
            print(f"{setting.name} has no row: {error}")
            continue
        found.append(Subject(setting.name, "quantised", out, setting.runtime, setting.environment))
    return found


def openvino_fp32(model: Path) -> list[Subject]:
    """The FP32 network in OpenVINO, and as OpenVINO runs it when it is not asked (BF16 where the CPU has it)."""
    model, fp32 = model.absolute(), {"INFERENCE_PRECISION_HINT": "f32"}
    return [
        Subject("FP32 OpenVINO", "fp32", model, "openvino", "openvino", fp32),
        Subject("FP32 OpenVINO, its default precision", "fp32", model, "openvino", "openvino"),
    ]
