"""An artifact in an ONNX Runtime two minor versions older, in a folder of its own: does it load, and answer alike?"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.task.graph_file import signal_to_noise

OLDER = "1.29.0"
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import numpy, onnxruntime as o; assert o.__version__ == sys.argv[2];"
    "s = o.InferenceSession(sys.argv[3], providers=['CPUExecutionProvider']);"
    "numpy.savez(sys.argv[5], *s.run(None, {s.get_inputs()[0].name: numpy.load(sys.argv[4])}))"
)


def said(file: Path, inputs: np.ndarray, folder: Path) -> str:
    """Return how the older runtime's answers agree with those of the present one, or why there are none."""
    packages, given, made = folder / f"onnxruntime-{OLDER}", folder / "older-inputs.npy", folder / "older-answers.npz"
    if not packages.is_dir():
        wanted = ["--no-deps", "--target", str(packages), f"onnxruntime=={OLDER}"]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)
    np.save(given, inputs)
    command = [sys.executable, "-c", _CODE, *map(str, (packages, OLDER, file, given, made))]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        return f"ONNX Runtime {OLDER}: {ran.stderr.strip().splitlines()[-1][:120]}"
    with np.load(made) as older:
        answers = [torch.from_numpy(older[name]) for name in older.files]
    db = signal_to_noise(answers, [torch.from_numpy(each) for each in OnnxRunner(file).run(inputs)])
    return f"in ONNX Runtime {OLDER} {db:.0f} dB of the present one's answers"
