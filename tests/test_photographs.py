"""examples/photographs/run.sh as a newcomer runs it: in an empty folder, each line a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "photographs" / "run.sh"


@pytest.mark.slow
def test_photographs_go_from_checkpoint_to_artifact(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(SCRIPT), "--no-wandb"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "images differ in size: the shorter side becomes 256 pixels" in done.stderr
    scores = json.loads((tmp_path / "quantized" / "result.json").read_text())["scores"]
    assert scores["n_images"] == 20 and scores["baseline"] >= 0.85
    float_score, score = (
        float(re.findall(rf"│\s*{chain}\s*│\s*1\s*│\s*([\d.]+)\s*│", done.stdout)[0]) for chain in ("FP32", "Q")
    )
    assert float_score == pytest.approx(100 * scores["baseline"], abs=0.01)
    assert score >= float_score - 10
    assert re.search(r"artifact: \d+ files are as their hashes say", done.stdout)
