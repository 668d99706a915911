"""The strongest opponents of `nacdeploy optimize` on a bare ONNX file: quantize_static swept, and NNCF, for ONNX
Runtime and for OpenVINO.

Each gets the float file as `nacdeploy export` writes it (simplified, at a current opset), the same inputs to calibrate,
and other inputs to choose by: of the settings that keep the ratio of signal to noise, the fastest in one interleaved
run. quantize_static also gets our own list of layers that should stay float.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from nacdeploy.base import latency
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.task.graph_file import signal_to_noise

METHODS = {
    "min-max": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
NNCF = "nncf==3.4.0"


def swept(file: Path, calibration: np.ndarray, judged: np.ndarray, in_float: Sequence[str], least_db: float) -> str:
    """Write the fastest quantize_static of `file` that keeps `least_db` on `judged` beside it, and return its setting;
    the one of most decibels if none does."""
    found: dict[str, Path] = {}
    for per_channel in (True, False):
        for method, kind in METHODS.items() if per_channel else [("min-max", CalibrationMethod.MinMax)]:
            for excluded in ([], nodes_of(file, in_float)) if in_float else ([],):
                name = f"{'per channel' if per_channel else 'per tensor'}, {method}" + (
                    f", {len(excluded)} of our float nodes excluded" if excluded else ""
                )
                out = file.with_name(f"static-{len(found)}.onnx")
                try:
                    _static(file, calibration, out, per_channel, kind, excluded)
                    db_of(file, out, judged)  # it runs
                    found[name] = out
                except Exception as error:  # a setting that its own tool or runtime refuses
                    print(f"quantize_static {name}: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)
    best = _best(file, found, judged, least_db)
    shutil.copy(found[best], file.with_name("static.onnx"))
    return best


_ONNX = (
    "m = onnx.load(sys.argv[2]); n = m.graph.input[0].name;"
    "d = nncf.Dataset(list(numpy.load(sys.argv[3])), lambda x: {n: x[None]});"
    "onnx.save(nncf.quantize(m, d, subset_size=len(numpy.load(sys.argv[3]))), sys.argv[4])"
)
_OPENVINO = (
    "m = openvino.convert_model(sys.argv[2]);"
    "d = nncf.Dataset(list(numpy.load(sys.argv[3])), lambda x: x[None]);"
    "q = nncf.quantize(m, d, subset_size=len(numpy.load(sys.argv[3])));"
    "openvino.save_model(q, sys.argv[4], compress_to_fp16=False)"
)


def nncf_of(file: Path, calibration: np.ndarray, folder: Path) -> dict[str, Path]:
    """Write what NNCF makes of `file`, in an environment of its own on first use: a graph for ONNX Runtime, and one for
    OpenVINO (.xml). Return the files by the names of their rows."""
    packages = folder / "nncf-packages"
    if not packages.is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), NNCF]
        subprocess.run([*command, "pydot==4.0.1", "tabulate==0.10.0", "ninja==1.13.2"], check=True)
    inputs = file.with_name("calibration.npy")
    np.save(inputs, calibration)
    found = {}
    for name, code, out in (
        ("NNCF 3.4, its defaults", _ONNX, file.with_name("nncf.onnx")),
        ("NNCF 3.4, its defaults, in OpenVINO", _OPENVINO, file.with_name("nncf.xml")),
    ):
        lines = f"import sys, numpy, onnx, openvino; sys.path.append(sys.argv[1]); import nncf; {code}"
        command = [sys.executable, "-c", lines, str(packages), str(file), str(inputs), str(out)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode == 0:
            found[name] = out
        else:
            print(f"{name}: {made.stderr.strip().splitlines()[-1][:200]}", file=sys.stderr)
    return found


def runner_of(file: Path) -> OnnxRunner | OpenVinoRunner:
    """Return a file in its runtime: IR runs in OpenVINO."""
    return OpenVinoRunner(file) if file.suffix == ".xml" else OnnxRunner(file)


def nodes_of(file: Path, layers: Iterable[str]) -> list[str]:
    """Return the nodes of an exported float graph that are the layers of these names."""
    wanted = {f"layers.{layer}.weight" for layer in layers}
    return [node.name for node in onnx.load(str(file)).graph.node if wanted & set(node.input)]


def db_of(reference: Path, file: Path, inputs: np.ndarray) -> float:
    """Return the ratio of signal to noise of a file's answers, in decibels: of its worst output."""
    found, wanted = ([torch.from_numpy(each) for each in OnnxRunner(path).run(inputs)] for path in (file, reference))
    return signal_to_noise(found, wanted)


def _best(file: Path, found: dict[str, Path], judged: np.ndarray, least_db: float) -> str:
    decibels = {name: db_of(file, path, judged) for name, path in found.items()}
    good = [name for name, db in decibels.items() if db >= least_db]
    if not good:
        return max(decibels, key=lambda name: decibels[name])
    subjects = {name: OnnxRunner(path).subject(judged[:1]) for name, path in {"float": file, **found}.items()}
    timed = latency.compare(
        {name: subjects[name] for name in ("float", *good)},
        baseline="float",
        batch_size=1,
        threads=1,
        n_rounds=6,
        round_ms=100.0,
    )
    return max(good, key=lambda name: timed.ratios[name].value)


class _Inputs(CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self._feeds = iter([{name: x[None]} for x in inputs])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _static(
    file: Path,
    inputs: np.ndarray,
    out: Path,
    per_channel: bool,
    method: CalibrationMethod,
    excluded: Sequence[str],
) -> None:
    quantize: Callable[..., None] = quantize_static
    quantize(
        str(file),
        str(out),
        _Inputs(OnnxRunner(file).input_name, inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        nodes_to_exclude=list(excluded),
    )
