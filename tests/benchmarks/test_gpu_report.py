"""benchmarks/gpu.py as far as it runs without a GPU: one line at the start, and a report that outlives its failures."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nacdeploy.base import records

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_gpu_it_ends_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: make test-gpu needs an NVIDIA GPU")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_report_keeps_what_worked_when_the_rest_fails(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    found = script.network("resnet8", 16, "SM89")
    records.write_json(tmp_path / "report.json", found)
    written = json.loads((tmp_path / "report.json").read_text())
    built = written["tensorrt_rtx"]
    assert set(built["bytes"]) == {"FP16", "INT8", "INT8 2:4"}
    assert built["records"]["INT8 2:4"]["flags"] == ["SPARSE_WEIGHTS"]
    assert "needs an NVIDIA GPU" in built["parity"]["INT8"]["failed"]
    assert all("needs an NVIDIA GPU" in entry["failed"] for entry in built["latency"].values())
    assert "failed" in written["CUDAExecutionProvider"]["CUDA graph off"]
