"""make bench-fashion: the main job on Fashion-MNIST, and a dense network of the compressed one's MACs trained from
scratch with the same effort beside it. Prints the table of docs/benchmarks.md."""

import math
import shutil
import time
from pathlib import Path

import nacdeploy
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency, records
from nacdeploy.cli.render import RichProgress
from nacdeploy.exporters import bench as bench_runner
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import epoch_report
from nacdeploy.strategies.baseline import initial_state, plain_network, train_network
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.task import evaluate as evaluation

FOLDER = Path("bench-run") / "fashion"


def dense(profile: Profile, macs: int, n_epochs: int, progress: RichProgress) -> tuple[CompressionState, float, float]:
    """A dense network of at least `macs` trained from scratch: its state, width and test accuracy."""
    full = tasks.make(profile.model, profile.data, profile)
    whole = initial_state(plain_network(full, profile), full).metrics.cost.macs
    width = math.ceil((profile.width or 16) * math.sqrt(macs / whole))
    small = profiles.override(profile, {"width": width, "train": {"epochs": n_epochs}})
    task = tasks.make(small.model, small.data, small)
    network = plain_network(task, small)
    with progress.bar(f"dense network of width {width} from scratch") as bar:
        train_network(network, task, small.train, small.seed, epoch_report(bar, task.metric))
    accuracy = evaluation.evaluate(network, task, task.data.test).score
    return initial_state(network, task), width, accuracy


def main() -> None:
    start, progress = time.monotonic(), RichProgress()
    for folder in (*FOLDER.glob("search-*"), *FOLDER.glob("export-*")):  # a trained baseline is reused
        shutil.rmtree(folder)
    profile = profiles.load("fashion-mnist")
    result = nacdeploy.search(profile=profile.name, runs=FOLDER, wandb=False, progress=progress)
    artifact = nacdeploy.export(target="ort", runs=FOLDER, wandb=False, progress=progress)
    table = nacdeploy.bench([artifact], progress=progress)
    state, _ = checkpoint.load(Path(result.checkpoint))
    baseline, record = checkpoint.load(Path(result.baseline_checkpoint))
    n_epochs = profile.train.epochs + result.n_epochs
    small, width, dense_accuracy = dense(profile, state.metrics.cost.macs, n_epochs, progress)
    dense_speed = bench_runner.speed_ratio(small, baseline, profile.bench, profile.export.opset)
    fp32, row = table.rows
    macs = [s.metrics.cost.macs / 1e6 for s in (baseline, state, small)]
    scores = result.scores
    print(
        f"\nmachine: {table.machine}; {table.runtime}; 1 thread, batch 1; {record.model.name} width {profile.width:g}"
    )
    print("| network | test accuracy % | MMACs | smaller | faster (95 %) |\n|---|---|---|---|---|")
    print(f"| FP32 baseline | {100 * fp32.score:.2f} | {macs[0]:.1f} | 1.0x | 1.00x |")
    control = f"control: FP32, {scores.n_control_epochs} epochs more"
    print(f"| {control} | {100 * scores.control:.2f} | {macs[0]:.1f} | 1.0x | 1.00x |")
    speed = f"{row.speed.value:.2f}x ({row.speed.low:.2f}-{row.speed.high:.2f})"
    print(f"| `{result.chain}` INT8 | {100 * row.score:.2f} | {macs[1]:.1f} | {row.size_ratio:.1f}x | {speed} |")
    size = baseline.metrics.cost.memory_bits / small.metrics.cost.memory_bits
    text = f"dense FP32, width {width:g}, {n_epochs} epochs from scratch"
    print(f"| {text} | {100 * dense_accuracy:.2f} | {macs[2]:.1f} | {size:.1f}x | {dense_speed:.2f}x |")
    print(f"chain: {result.chain}; drop {100 * (max(scores.baseline, scores.control) - row.score):.2f} points")
    minutes = (time.monotonic() - start) / 60
    print(f"{result.n_evaluations} chains evaluated, {result.n_trainings} trainings; {minutes:.1f} minutes")
    records.write_json(FOLDER / "table.json", {"machine": latency.machine(), "result": records.to_data(result)})


if __name__ == "__main__":
    main()
