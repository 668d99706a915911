"""The honest table: networks of equal measured time, made by nacdeploy, by a smaller dense network and by what a user
would put together today, all trained for the same epochs by the same recipe.

    python -m benchmarks.honest                        what is not there yet is made, then the table is printed
    python -m benchmarks.honest --networks resnet --seeds 0
    python -m benchmarks.honest --report               only the table of what is there, and what is missing

It may be killed at any moment and started again; two of them share the work of other networks or seeds.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch

from benchmarks.honest import methods, table
from benchmarks.honest.bench import Bench, opened
from benchmarks.honest.cells import ENVIRONMENTS, LINES
from benchmarks.honest.plans import PLANS, Plan, smoke
from benchmarks.peers.environments import versions
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.cli.render import RichProgress

FOLDER = Path("bench-run") / "honest"


def main() -> None:
    asked = _asked()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    plans = [smoke(PLANS[name]) if asked.smoke else PLANS[name] for name in asked.networks]
    root, progress = FOLDER.with_name("honest-smoke") if asked.smoke else FOLDER, RichProgress()
    end = time.monotonic() + 3600 * asked.hours
    for plan, speedup, seed in [] if asked.report else _work(plans, asked.seeds):
        for method in _methods(opened(plan, seed, root, progress, make=True), speedup, asked.rows):
            if time.monotonic() < end:
                _run(method, progress)
    _report(plans, asked.seeds, root, progress, asked.retime)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.honest", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--networks", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=[""], help="parts of the names of the rows to make")
    parser.add_argument("--hours", type=float, default=1000.0, help="begin no row after so many hours")
    parser.add_argument("--report", action="store_true", help="make nothing, print what is there")
    parser.add_argument("--retime", action="store_true", help="time everything anew")
    parser.add_argument("--smoke", action="store_true", help="tiny settings, in a folder of their own")
    return parser.parse_args()


def _work(plans: Sequence[Plan], seeds: Sequence[int]) -> Iterator[tuple[Plan, float, int]]:
    """What is asked for, in the order of its worth: each network's first speed with every seed, then the next."""
    for rank in range(max(len(plan.speedups) for plan in plans)):
        for seed, plan in product(seeds, plans):
            for speedup, its in list(plan.speedups.items())[rank : rank + 1]:
                if seed in its:
                    yield plan, speedup, seed


def _methods(bench: Bench, speedup: float, rows: Sequence[str]) -> Iterator[Iterator[methods.Variation]]:
    yield methods.untrained(bench)
    for method in methods.METHODS:
        if any(part in method.name for part in rows):
            yield method.variations(bench, speedup)


def _run(method: Iterator[methods.Variation], progress: RichProgress) -> None:
    """Make what a row needs; a row that cannot be made is said, and the others go on."""
    try:
        list(method)
    except NacdeployError as error:
        progress.say(str(error))


def _report(plans: Sequence[Plan], seeds: Sequence[int], root: Path, progress: RichProgress, fresh: bool) -> None:
    packages = {**versions("own", ENVIRONMENTS), **versions("openvino", ENVIRONMENTS)}
    lines = [", ".join(f"{name} {version}" for name, version in packages.items())]
    missing: list[str] = []
    for plan in plans:

        def bench_of(seed: int, plan: Plan = plan) -> Bench:
            return opened(plan, seed, root, progress, make=False)

        if (root / plan.name / "shapes.json").is_file():
            report = table.of_plan(plan, seeds, bench_of, fresh)
            lines, missing = [*lines, "", *report.lines, "", _spent(plan, root)], [*missing, *report.missing]
        else:
            missing.append(f"{plan.name}, everything")
    text = "\n".join([*lines, "", *([f"missing: {each}" for each in missing] or ["nothing is missing"])])
    print(text)
    root.mkdir(parents=True, exist_ok=True)
    records.write_text(root / "table.md", text + "\n")


def _spent(plan: Plan, root: Path) -> str:
    """The CPU hours of all cells of a network."""
    lines = [line for file in (root / plan.name).glob(f"seed-*/{LINES}") for line in file.open(encoding="utf-8")]
    cpu_s = sum(json.loads(line)["cpu_s"] for line in lines if line.strip().endswith("}"))
    return f"{cpu_s / 3600:.2f} CPU hours in {len(lines)} cells"


if __name__ == "__main__":
    main()
