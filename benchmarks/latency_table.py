"""make bench-latency-table: the table of layers' times behind P by time, on a ResNet50 at 224 px: how long it
takes, and how far its prediction is off on networks cut to random widths, each timed whole. Weights are random: no time
depends on their values.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import latency
from nacdeploy.latencies.clock import TableClock
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.layer_times import widths_of
from nacdeploy.strategies.operators.prune.operator import rule_to_come
from nacdeploy.surgery.channels import channel_groups

IMAGES = {"n_train": 16, "n_validation": 16, "n_test": 16, "input_size": 224, "mean": "imagenet", "std": "imagenet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--allocations", type=int, default=20)
    parser.add_argument("--precisions", nargs="+", default=[by_time.INT8, by_time.FLOAT32])
    asked = parser.parse_args()
    print("| precision | ms | s for the table | distinct layers | % off in the middle | at worst |")
    print("|---|---|---|---|---|---|")
    for precision in asked.precisions:
        print(f"| {' | '.join(_row(asked.model, precision, asked.allocations))} |", flush=True)
    print(f"\nmachine: {latency.machine()}; {asked.model}, {IMAGES['input_size']} px; ONNX Runtime, batch 1, 1 thread")


def _row(model: str, precision: str, n: int) -> list[str]:
    profile = profiles.from_mapping({"name": "latency-table", "model": model, "data": "digits", "images": IMAGES})
    task = tasks.make(profile.model, profile.data, profile)
    network, multiple = plain_network(task, profile), profile.target.multiple()
    runs = by_time.deployed(network, rule_to_come(profile) if precision == by_time.INT8 else None)
    found, draw = channel_groups.groups(runs), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        clock, start = TableClock(task, profile, Path(folder)), time.monotonic()
        times, fit = by_time.surveyed(runs, found, multiple, clock)
        seconds = time.monotonic() - start
        off = []
        for _ in range(n):
            widths = {group.root: draw.choice(widths_of(group, multiple)) for group in found}
            (whole_ms, ms) = clock.networks_ms([runs, by_time.cut_to(runs, found, widths, multiple)])
            off.append(100 * abs(fit.whole_ms(times.sum_ms(widths)) / ms - 1))
        n_layers = clock.times.n_layers
    middle, worst = statistics.median(off), max(off)
    return [precision, f"{whole_ms:.2f}", f"{seconds:.0f}", str(n_layers), f"{middle:.1f}", f"{worst:.1f}"]


if __name__ == "__main__":
    main()
