"""The time of networks that are not trained yet: a time follows from the structure, so that only networks near the
time that is asked for are trained. Measured once per network, in one interleaved run, kept in shapes.json."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.honest.bench import Bench
from benchmarks.honest.cells import ENVIRONMENTS
from benchmarks.honest.making import cut_by_torch_pruning
from benchmarks.peers import quantisers, timing
from benchmarks.peers.quantisers import Setting
from benchmarks.peers.timing import Subject
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.latencies.graphs import Graphs
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.operator import rule_to_come

BASELINE = "FP32"


def dense_label(model: str, width: float) -> str:
    return f"dense {model} {width:g}"


def pruned_label(setting: Setting, ratio: float) -> str:
    return f"{setting.name} {ratio:g}"


def speeds(bench: Bench) -> Mapping[str, float]:
    """How many times faster than the FP32 baseline each untrained candidate runs, by its label."""
    kept = bench.folder / "shapes.json"
    if not kept.is_file():
        bench.progress.say(f"timing the untrained candidates of {bench.plan.name}")
        place = bench.folder / "shapes"
        place.mkdir(parents=True, exist_ok=True)
        subjects = [*_baseline(bench, place), *_dense(bench, place), *_pruned(bench, place)]
        with timing.loaded(subjects, ENVIRONMENTS, bench.images("calibration").first) as workers:
            ratios = timing.compare(workers, BASELINE, fastest=True).ratios
        records.write_json(kept, {name: ratio.value for name, ratio in ratios.items()})
    return records.read_json(kept)


def around(found: Mapping[float, float], speedup: float) -> tuple[float, ...]:
    """Of candidates by their size (a width, a share of channels that stays), with their speeds: the slowest that is
    fast enough and the fastest that is not, as far as they exist and are at most twice as slow as asked; none if none
    is fast enough. One that is slower than a larger one is no candidate: kernels like some widths better."""
    front = {size: speed for size, speed in found.items() if all(speed > found[x] for x in found if x > size)}
    fast = {key: speed for key, speed in front.items() if speed >= speedup}
    slow = {key: speed for key, speed in front.items() if speedup / 2 <= speed < speedup}
    if not fast:
        return ()
    chosen = [min(fast, key=lambda key: fast[key])]
    return (*chosen, *([max(slow, key=lambda key: slow[key])] if slow else []))


def share(speedup: float, within: float, beyond: float) -> float:
    """How near `speedup` lies to the speed of the network within the time (1) or beyond it (0), in log time."""
    if within <= beyond:
        return 1.0
    return min(1.0, max(0.0, math.log(speedup / beyond) / math.log(within / beyond)))


def _baseline(bench: Bench, place: Path) -> Iterator[Subject]:
    path = (place / "fp32.onnx").absolute()
    network = plain_network(bench.task, bench.profile)
    path.write_bytes(to_onnx(network, bench.profile.export.opset).model)
    yield Subject(BASELINE, "fp32", path)


def _dense(bench: Bench, place: Path) -> Iterator[Subject]:
    graphs = Graphs(bench.profile.export.opset)
    for family in (*bench.plan.families, *bench.plan.others):
        for width in family.widths:
            task, profile = bench.dense(family.model, width, {})
            network = by_time.deployed(plain_network(task, profile), rule_to_come(profile))
            path = (place / f"{family.model}-{width:g}.onnx").absolute()
            path.write_bytes(graphs.model(network))
            yield Subject(dense_label(family.model, width), "dense", path)


def _pruned(bench: Bench, place: Path) -> Iterator[Subject]:
    """Networks cut by torch-pruning and quantised by the peers; a ratio that a peer cannot do is said and left out."""
    whole, calibration = plain_network(bench.task, bench.profile), bench.images("calibration")
    for ratio in bench.plan.ratios:
        path = place / f"pruned-{ratio:g}.onnx"
        try:
            path.write_bytes(to_onnx(cut_by_torch_pruning(whole, ratio, bench.task), bench.profile.export.opset).model)
        except (NacdeployError, RuntimeError, ValueError) as error:
            bench.progress.say(f"torch-pruning {ratio:g} cannot be timed: {error}")
            continue
        yield from _by_peers(path, calibration.path, ratio, (quantisers.STATIC[0], quantisers.NNCF[0]), place)


def _by_peers(
    path: Path, calibration: Path, ratio: float, settings: Sequence[Setting], place: Path
) -> Iterator[Subject]:
    own = place / f"quantised-{ratio:g}"
    quantise = partial(quantisers.quantised, place=own, environments=ENVIRONMENTS)
    for setting in settings:
        for subject in quantise((setting,), path, calibration):
            label = pruned_label(setting, ratio)
            yield Subject(label, "pruned", subject.path, subject.runtime, subject.environment)
