"""make demo: the main job on real data, as a user would type it, in demo-run/. Ends with the figures that matter."""

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nacdeploy.profile import Profile, load, shipped_directory

FOLDER = Path("demo-run")
UNIT = 8  # channels of a block of CPU kernels


def nacdeploy(*arguments: str) -> Any:
    """Run one command in the demo's folder and return its JSON document."""
    return json.loads(_printed(*arguments, hidden=("--json",)))


def _printed(*arguments: str, hidden: tuple[str, ...] = ()) -> str:
    """Run one command in the demo's folder and return what it prints."""
    print(f"\n$ nacdeploy {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "nacdeploy.cli.main", *arguments, *hidden]
    done = subprocess.run(command, cwd=FOLDER, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def dense(found: Any) -> tuple[str, str]:
    """The honest opponent: a dense network of the same architecture, of at least the MACs that the chain left, trained
    from scratch for the epochs of baseline and chain together, in INT8 too. Its name and its artifact."""
    profile: Profile = load("demo")
    width = UNIT * math.ceil((profile.width or 16) / math.sqrt(found["figures"]["macs_ratio"]) / UNIT)
    n_epochs = profile.train.epochs + found["n_epochs"]
    text = (shipped_directory() / "demo.toml").read_text(encoding="utf-8")
    asked = text.replace(f"[train]\nepochs = {profile.train.epochs}\n", f"[train]\nepochs = {n_epochs}\n")
    (FOLDER / "dense.toml").write_text(asked, encoding="utf-8")
    assert load(str(FOLDER / "dense.toml")).train.epochs == n_epochs
    small = nacdeploy("transfer", "--strategy", "Q", "--profile", "dense.toml", "--width", str(width))
    artifact = nacdeploy("export", "--from", small["folder"], "--target", "ort")["artifact"]
    return f"dense network of width {width}, from scratch for as many epochs", artifact


def main() -> None:
    start = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    found = nacdeploy("search")
    nacdeploy("transfer", "--strategy", "QPPF")
    engines = nacdeploy("export", "--target", "trt")
    deployed = nacdeploy("export", "--from", found["folder"], "--target", "ort")
    opponent, small = dense(found)
    table = nacdeploy("bench", deployed["artifact"], small, "--out", "bench.json")
    told = ("--artifact", deployed["artifact"], "--bench", "bench.json", "--explain")
    _printed("report", found["folder"], *told, "--out", "report.html")
    _, row, own = table["rows"]
    scores, latency = found["scores"], row["latency"]
    before = max(scores["baseline"], scores["control"])
    print(f"\nfound chain: {found['chain']} ({found['n_evaluations']} evaluated, {found['n_trainings']} trainings)")
    print(f"machine: {table['machine']}; ONNX Runtime, {latency['threads']} thread, batch {latency['batch_size']}")
    print(
        f"test accuracy: FP32 {100 * before:.2f} % (the better of baseline and control) -> "
        f"INT8 artifact {100 * row['accuracy']:.2f} % (drop {100 * (before - row['accuracy']):.2f} points)"
    )
    speed = row["speed"]
    print(
        f"size: {row['size_ratio']:.1f}x smaller; speed: {speed['value']:.2f}x "
        f"({speed['low']:.2f}-{speed['high']:.2f}), {latency['p50_ms']:.3f} ms"
    )
    print(
        f"{opponent}, INT8: {100 * own['accuracy']:.2f} %, {own['speed']['value']:.2f}x "
        f"({own['speed']['low']:.2f}-{own['speed']['high']:.2f}), {own['latency']['p50_ms']:.3f} ms"
    )
    print(
        f"artifacts: {FOLDER / deployed['artifact']} (ONNX Runtime), {FOLDER / engines['artifact']} (TensorRT engines)"
    )
    print(f"report of the whole job: {FOLDER / 'report.html'}; it took {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
