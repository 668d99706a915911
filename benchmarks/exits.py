"""make bench-exits: what early exits save end to end, on Fashion-MNIST and a ResNet of 43 MMACs in INT8.

The same INT8 network with and without exits answers the test split in shuffled order, in turns, at batch 1 and 32: mean
and 99th percentile, and the mean that follows from the shares of the exits and the measured time of each way out. Then
a search finds the best static chain within the cascade's mean time. Every step is kept in bench-run/exits and not done
twice.

    python benchmarks/exits.py [--folder DIR] [--smoke] [--no-static]
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import nacdeploy
from nacdeploy import data as datasets
from nacdeploy.base import latency, records
from nacdeploy.exporters import bench as benching
from nacdeploy.exporters.exits import deployed
from nacdeploy.exporters.exits.deployed import Deployed
from nacdeploy.strategies.steps import checkpoint

PROFILE = Path(__file__).with_suffix(".toml")
SMOKE = """
target = "ort"
model = "resnet8"
width = 16
data = "digits"
images = {n_train = 300, n_validation = 150, n_test = 64, input_size = 8}
train = {epochs = 4, learning_rate = 0.05, batch_size = 50}
finetune = {epochs = 1, learning_rate = 0.01, batch_size = 50}
exits = {n_exits = 2, max_drop = 3.0, recipe = {epochs = 2}}
settle = {n_images = 100, batch_size = 50}
quantize = {n_calibration = 100}
export = {exits = "segments", guard = false, n_autotune_rounds = 3, min_agreement = 0.5, min_snr_db = 5.0}
search = {alphabet = "FPQ", budget = 2, max_drop = 90.0}
bench = {n_rounds = 3, round_ms = 1.0}
"""
STATIC, LEAVING = "QF", "QFE"
BATCHES = (1, 32)
N_ROUNDS, N_IMAGES = 20, 10_000


@dataclass(frozen=True)
class Timed:
    """The times of calls on batches of test images, in ms: mean with its 95 % interval over rounds, and the 99th
    percentile."""

    mean_ms: float
    low_ms: float
    high_ms: float
    p99_ms: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    home = options.folder
    home.mkdir(parents=True, exist_ok=True)
    profile = home / "smoke.toml" if options.smoke else PROFILE
    if options.smoke:
        profile.write_text(SMOKE)
    folders = {word: _artifact(word, profile, home) for word in (STATIC, LEAVING)}
    table = _once(home / "table.json", lambda: _measured(folders, home))
    _print(table)
    if options.static:
        mean_ms = table["rows"][str(BATCHES[0])][LEAVING]["mean_ms"]
        _print_static(_once(home / "static.json", lambda: _static(mean_ms, profile, home, folders[LEAVING])))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Early exits end to end.")
    parser.add_argument("--folder", type=Path, default=Path("bench-run") / "exits")
    parser.add_argument("--smoke", action="store_true", help="Seconds, on the digits: does it run at all?")
    parser.add_argument("--no-static", dest="static", action="store_false", help="No search for a static one.")
    return parser.parse_args(arguments)


def _once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds, made where it is not there."""
    if not path.is_file():
        records.write_json(path, make())
    found: dict[str, Any] = records.read_json(path)
    return found


def _artifact(word: str, profile: Path, home: Path) -> Path:
    """Return the artifact of a chain; the one with exits trains as the one without, and then its heads."""
    network, folder = home / f"network-{word}", home / f"artifact-{word}"
    if not network.is_dir():
        nacdeploy.transfer(strategy=word, profile=str(profile), runs=home, out=network, wandb=False)
    if not folder.is_dir():
        nacdeploy.export(source=network, out=folder, runs=home, wandb=False)
    return folder


def _measured(folders: Mapping[str, Path], home: Path) -> dict[str, Any]:
    """Score and time both artifacts in turns."""
    opened = {word: deployed.load(folder) for word, folder in folders.items()}
    manifest = opened[LEAVING].manifest
    assert manifest.data is not None
    data = datasets.load(manifest.data.name, manifest.data.images, manifest.metric)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(1))[:N_IMAGES]
    taken = benching.as_taken(manifest, data)
    images = taken.normalize(data.test.subset(order).whole()).numpy()
    labels = data.test.labels[order]
    answers = {word: _answers(each, images) for word, each in opened.items()}
    scores = {word: manifest.metric.score(torch.from_numpy(found), labels) for word, (found, _) in answers.items()}
    shares = np.bincount(answers[LEAVING][1], minlength=len(opened[LEAVING].thresholds) + 1) / len(images)
    rows = {str(batch): _timed(opened, images, batch, folders[LEAVING], shares) for batch in BATCHES}
    state, _ = checkpoint.load(home / f"network-{STATIC}" / "checkpoint")
    return {
        "machine": latency.machine(),
        "macs": state.metrics.cost.macs,
        "form": manifest.cascade.form if manifest.cascade else "whole",
        "thresholds": opened[LEAVING].thresholds,
        "scores": scores,
        "alone": _alone(folders[LEAVING], opened[LEAVING], images, labels),
        "shares": shares.tolist(),
        "rows": rows,
    }


def _answers(opened: Deployed, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    parts = [opened.run(images[start : start + 64]) for start in range(0, len(images), 64)]
    return np.concatenate([each.outputs for each in parts]), np.concatenate([each.exits for each in parts])


def _alone(folder: Path, opened: Deployed, images: NDArray[Any], labels: Any) -> list[float]:
    """Return the score of every exit alone, the network's own end last."""
    if opened.cascade is None:
        return []
    parts = [opened.cascade.every(images[start : start + 64]) for start in range(0, len(images), 64)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [opened.manifest.metric.score(torch.from_numpy(column), labels) for column in columns]


def _timed(
    opened: Mapping[str, Deployed], images: NDArray[Any], batch: int, folder: Path, shares: NDArray[Any]
) -> dict[str, Any]:
    """Time both artifacts over all images in turns, part by part, and the ways out of the one with exits between."""
    batches = [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]
    parts = np.array_split(np.arange(len(batches)), min(N_ROUNDS, len(batches)))
    times: dict[str, list[NDArray[Any]]] = {word: [] for word in opened}
    ways = opened[LEAVING].ways(folder) if batch == 1 else []
    way_times: list[list[float]] = [[] for _ in ways]
    for call in (*(each.run for each in opened.values()), *ways):
        for at in range(min(5, len(batches))):
            call(batches[at])
    for index, part in enumerate(parts):
        words = list(opened) if index % 2 == 0 else list(opened)[::-1]
        for word in words:
            times[word].append(np.array([_ms(opened[word].run, batches[at]) for at in part]))
        for found, way in zip(way_times, ways, strict=True):
            found += [_ms(way, batches[at]) for at in part[:: max(1, len(part) // 50)]]
    rows = {word: records.to_data(_summary(rounds)) for word, rounds in times.items()}
    way_ms = [float(np.mean(found)) for found in way_times]
    expected = float(shares @ np.array(way_ms)) if ways else None
    return {**rows, "ratio": _ratio(times), "ways_ms": way_ms, "expected_ms": expected}


def _ms(call: Callable[[NDArray[Any]], Any], images: NDArray[Any]) -> float:
    start = time.perf_counter_ns()
    call(images)
    return (time.perf_counter_ns() - start) / 1e6


def _summary(rounds: Sequence[NDArray[Any]]) -> Timed:
    low, high = _interval([float(each.mean()) for each in rounds])
    every = np.concatenate(rounds)
    return Timed(float(every.mean()), low, high, float(np.percentile(every, 99)))


def _ratio(times: Mapping[str, Sequence[NDArray[Any]]]) -> list[float]:
    """Return the cascade's mean time over the static network's, and the 95 % interval over paired rounds."""
    ratios = [float(a.mean() / b.mean()) for a, b in zip(times[LEAVING], times[STATIC], strict=True)]
    return [float(np.mean(ratios)), *_interval(ratios)]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap of a mean (Efron, 1979)."""
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(np.array(values)[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def _static(mean_ms: float, profile: Path, home: Path, leaving: Path) -> dict[str, Any]:
    """Search the best static network within the cascade's mean time, and score its artifact."""
    run = home / "static"
    if (run / "run.json").is_file() and not (run / "checkpoint").is_dir():
        nacdeploy.search(resume=run, runs=home, wandb=False)
    elif not run.is_dir():
        try:
            nacdeploy.search(profile=str(profile), target_ms=mean_ms, runs=home, out=run, wandb=False)
        except nacdeploy.NacdeployError as error:  # no static network of this time, or the time out of reach
            return {"target_ms": mean_ms, "rows": [], "refused": str(error)}
    folder = home / "artifact-static"
    if not folder.is_dir():
        nacdeploy.export(source=run, out=folder, runs=home, wandb=False)
    table = nacdeploy.bench([folder, leaving])
    return {"target_ms": mean_ms, "rows": [records.to_data(row) for row in table.rows]}


def _print(table: dict[str, Any]) -> None:
    scores, shares = table["scores"], ", ".join(f"{100 * share:.1f} %" for share in table["shares"])
    print(f"machine: {table['machine']}; 1 thread; {table['macs'] / 1e6:.1f} MMACs; form '{table['form']}'")
    print(f"every exit alone, the own end last: {', '.join(f'{100 * score:.2f} %' for score in table['alone'])}")
    if any(score >= table["alone"][-1] for score in table["alone"][:-1]):
        print("an exit alone is as accurate as the whole network, which is under-trained: no gain of exits is claimed")
    print(f"thresholds {', '.join(f'{each:.4g}' for each in table['thresholds'])}; {shares} leave at the exits\n")
    print("| batch | network | test accuracy % | mean ms (95 %) | p99 ms | expected ms | of the mean time |")
    print("|---|---|---|---|---|---|---|")
    for batch, row in table["rows"].items():
        for word in (STATIC, LEAVING):
            found, expected = row[word], row["expected_ms"]
            mean = f"{found['mean_ms']:.4f} ({found['low_ms']:.4f}-{found['high_ms']:.4f})"
            said = f"{expected:.4f}" if word == LEAVING and expected else ""
            ratio = "{:.3f} ({:.3f}-{:.3f})".format(*row["ratio"]) if word == LEAVING else ""
            cells = (batch, f"`{word}`", f"{100 * scores[word]:.2f}", mean, f"{found['p99_ms']:.4f}", said, ratio)
            print(f"| {' | '.join(cells)} |")


def _print_static(static: dict[str, Any]) -> None:
    print(f"\nstatic chains within {static['target_ms']:.4f} ms, by `bench`: {static.get('refused', '')}")
    for row in static["rows"]:
        chain = row["chain"] or "FP32"
        print(f"- `{chain}`: {100 * row['accuracy']:.2f} %, mean {row['latency']['mean_ms']:.4f} ms")


if __name__ == "__main__":
    main()
