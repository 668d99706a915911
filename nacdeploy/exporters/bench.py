"""Bench: artifacts and their uncompressed baseline timed in turns in one run, and the score of the deployed artifacts.

On a GPU the baseline is an FP16 engine, every artifact is timed with and without CUDA graphs, and the device's own time
stands beside the time end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nacdeploy.base import html, latency
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Latency, Ratio, Subject
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.exits import deployed
from nacdeploy.exporters.exits.deployed import Deployed
from nacdeploy.exporters.targets import gpu, pick
from nacdeploy.exporters.targets.gpu import GpuState
from nacdeploy.exporters.targets.runtime import Runner
from nacdeploy.metrics import DEFAULT, AsksBaseline, Metric, asks_the_baseline, named, scored, shown
from nacdeploy.profile.tables.deployment import BenchTable
from nacdeploy.task import evaluate as evaluation

_SHUFFLED_BYTES = 2**28


@scored
@dataclass(frozen=True)
class Row:
    """One artifact at one batch size.

    Attributes:
        score: the metric's score, of the session that is timed.
        model_bytes: the bytes of the model file.
        latency: the measured latency end to end.
        speed: the speed against the baseline with its 95 % interval.
        device_latency: the device's own latency on a GPU.
        device_speed: the device's own speed on a GPU.
        exit_fractions: the share of test images that each exit answered, the network's own end last.
        expected_ms: the mean time that follows from these shares and the measured time of each way out, where exits
            save time, at batch 1; `latency.mean_ms` is the truth, over test images in shuffled order.
        identity: the artifact that was timed, as `artifact.identity` tells it; "" in older files.
    """

    artifact: str
    chain: str
    target: str
    score: float
    n_images: int
    model_bytes: int
    size_ratio: float
    latency: Latency
    speed: Ratio
    runtime: str
    cuda_graph: bool = False
    device_latency: Latency | None = None
    device_speed: Ratio | None = None
    note: str = ""
    metric: str = DEFAULT
    exit_fractions: tuple[float, ...] = ()
    expected_ms: float | None = None
    identity: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of one interleaved run, the machine it ran on, and the state of its GPUs before and after."""

    baseline: str
    machine: str
    runtime: str
    rows: tuple[Row, ...]
    gpus_before: tuple[GpuState, ...] = ()
    gpus_after: tuple[GpuState, ...] = ()

    def _repr_html_(self) -> str:
        """Return the rows as a table, for notebooks."""
        metric = named(self.rows[0].metric) if self.rows else named(DEFAULT)
        columns = ("artifact", "chain", "target", "batch", metric.title, "smaller", "p50 ms", "faster")
        return html.table(self.machine, columns, [_texts(row, metric) for row in self.rows])


def _texts(row: Row, metric: Metric) -> tuple[str, ...]:
    size, speed = f"{row.size_ratio:.2f}x", f"{row.speed.value:.2f}x"
    ms, batch = f"{row.latency.p50_ms:.3f}", str(row.latency.batch_size)
    return row.artifact, row.chain or "FP32", row.target, batch, shown(metric, row.score), size, ms, speed


@dataclass(frozen=True)
class _Subject:
    name: str
    path: Path
    manifest: Manifest
    deployed: Deployed
    cuda_graph: bool
    score: float
    exit_fractions: tuple[float, ...]


def bench(
    artifacts: Sequence[Path], baseline: Path, data: Dataset, table: BenchTable, metric: Metric | None = None
) -> Table:
    """Time artifacts against `baseline` and score them on the test split of `data`, by `metric` or their own.

    Raises:
        UsageError: an artifact takes other images than the data has, or is no artifact.
        NacdeployError: an artifact is damaged.
    """
    loaded = {path: _checked(path, data) for path in dict.fromkeys([baseline, *artifacts])}
    if len({manifest.metric.name for manifest in loaded.values()}) > 1:
        raise UsageError("artifacts that are scored by different metrics stand in no common table; bench them apart")
    host = pick.gpu_host(loaded.values())
    before, rows = gpu.states() if host else (), []
    for cuda_graph in (False, True) if host else (False,):
        subjects: list[_Subject] = []
        for path, manifest in loaded.items():
            opened = deployed.opened(path, manifest, threads=table.threads, host=host, cuda_graph=cuda_graph)
            data = data if subjects else _answered(opened, data)
            answers, fractions = _answers(opened, as_taken(manifest, data), data.test)
            score = (metric or manifest.metric).score(answers, data.test.labels)
            subjects.append(_Subject(str(path), path, manifest, opened, cuda_graph, score, fractions))
        rows += _timed(subjects, data, table)
    after = gpu.states() if host else ()
    return Table(str(baseline), latency.machine(), rows[0].runtime, tuple(rows), before, after)


def deployed_score(
    runner: Runner, manifest: Manifest, data: Dataset, images: ImageSet, metric: Metric | None = None
) -> float:
    """Score the answers of an artifact's whole graph, with its gate applied, by `metric` or the artifact's own."""
    answers, _ = _answers(Deployed(manifest, runner, None, None, ""), data, images)
    return (metric or manifest.metric).score(answers, images.labels)


def _answered(opened: Deployed, data: Dataset) -> Dataset:
    """Return the data with the baseline's answers as labels of the test split, if its metric asks for these."""
    metric = opened.manifest.metric
    if not asks_the_baseline(metric) or not isinstance(metric, AsksBaseline):
        return data
    labels = metric.answers(_answers(opened, as_taken(opened.manifest, data), data.test)[0])
    return replace(data, test=ImageSet(data.test.images, labels))


def _answers(opened: Deployed, data: Dataset, images: ImageSet) -> tuple[Tensor, tuple[float, ...]]:
    """Return the outputs (N, K) that the artifact answers with, and the share that each of its exits answered."""
    parts = [opened.run(x) for x in evaluation.batches(data, images, 64)]
    exits = np.bincount(np.concatenate([each.exits for each in parts]), minlength=len(opened.thresholds) + 1)
    answers = torch.from_numpy(np.concatenate([each.outputs for each in parts]))
    return answers, tuple((exits / len(images)).tolist()) if opened.thresholds else ()


def as_taken(manifest: Manifest, data: Dataset) -> Dataset:
    """Return the data, normalised as an artifact takes its images."""
    taken = manifest.preprocessing
    if taken is None:
        return data
    values = "0..255" if taken.scale == 1 else "0..1"
    return replace(data, mean=taken.mean, std=taken.std, channel_order=taken.channel_order, value_range=values)


def _checked(path: Path, data: Dataset) -> Manifest:
    """Return the manifest of an artifact, and check that it takes the images and names the classes of a data set."""
    manifest, _ = artifact.load(path)
    expected = tuple(manifest.inputs[0].shape[1:] if manifest.inputs else ())
    expected, given = manifest.ports.input_shape if manifest.ports else expected, data.input_shape
    if expected != given:
        raise UsageError(f"{path} takes images of shape {expected}, the data has {given}; give its own with --data")
    if manifest.class_names != data.class_names:
        raise UsageError(f"{path} tells other classes apart than data set '{data.name}'; give its own with --data")
    return manifest


def _timed(subjects: Sequence[_Subject], data: Dataset, table: BenchTable) -> list[Row]:
    """Return the rows of subjects, at every batch size; the first subject is the baseline."""
    rows: list[Row] = []
    for batch_size in table.batch_sizes:
        calls, ways = {s.name: _call(s, data, batch_size) for s in subjects}, {}
        if batch_size == 1:
            ways = {s.name: _ways(s, data) for s in subjects if s.deployed.saves_time}
        compared = latency.compare(
            calls | {f"{name} {at}": way for name, found in ways.items() for at, way in enumerate(found)},
            baseline=subjects[0].name,
            batch_size=batch_size,
            threads=table.threads,
            n_rounds=table.n_rounds,
            round_ms=table.round_ms,
        )
        for s in subjects:
            times = [compared.latencies[f"{s.name} {at}"].mean_ms for at in range(len(ways.get(s.name, ())))]
            rows.append(_row(s, subjects[0], compared, len(data.test), times))
    return rows


def _call(subject: _Subject, data: Dataset, batch_size: int) -> Subject:
    """Return the call to be timed: on one image again and again, or on one test image after another, in shuffled
    order, where the time of an image depends on it."""
    whole = subject.deployed.whole
    if whole is not None:
        image = data.normalize(data.test.images[:1])
        return whole.subject(image.repeat(batch_size, *[1] * (image.dim() - 1)).numpy())
    taken, n_bytes = as_taken(subject.manifest, data), 4 * int(np.prod(data.input_shape))
    n = max(batch_size, min(len(data.test), _SHUFFLED_BYTES // n_bytes))
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0)).repeat(-(-n // len(data.test)))
    images = evaluation.batches(taken, data.test.subset(order[: n - n % batch_size]), batch_size)
    given = cycle([each.contiguous().numpy() for each in images])
    return Subject(lambda: subject.deployed.run(next(given)), varies=True)


def _ways(subject: _Subject, data: Dataset) -> list[Subject]:
    """Return calls on one image, each of which leaves at another exit."""
    image = as_taken(subject.manifest, data).normalize(data.test.images[:1]).numpy()
    return [Subject(partial(way, image)) for way in subject.deployed.ways(subject.path)]


def _note(subject: _Subject, latencies: Latency, expected_ms: float | None) -> str:
    """Say what readers of a row's time should know."""
    notes = [subject.deployed.note] if subject.deployed.note else []
    if subject.deployed.saves_time:
        expected = "" if expected_ms is None else f", {expected_ms:.3f} ms expected"
        shares = ", ".join(f"{100 * share:.0f} %" for share in subject.exit_fractions)
        mean = f"{subject.name} at batch {latencies.batch_size}: mean {latencies.mean_ms:.3f} ms"
        notes.append(f"{mean} over test images in shuffled order{expected}; {shares} leave at its exits")
    elif subject.manifest.gate:
        notes.append("no time saved by exits in this form")
    return "; ".join(notes)


def _row(
    subject: _Subject, baseline: _Subject, compared: latency.Comparison, n_images: int, ways_ms: Sequence[float]
) -> Row:
    size = artifact.size_bytes(subject.path, subject.manifest)
    expected_ms = float(np.array(subject.exit_fractions) @ np.array(ways_ms)) if ways_ms else None
    return Row(
        artifact=subject.name,
        chain=subject.manifest.chain,
        target=subject.manifest.target,
        score=subject.score,
        n_images=n_images,
        model_bytes=size,
        size_ratio=artifact.size_bytes(baseline.path, baseline.manifest) / size,
        latency=compared.latencies[subject.name],
        speed=compared.ratios[subject.name],
        runtime=subject.deployed.runtime,
        cuda_graph=subject.cuda_graph,
        device_latency=compared.device_latencies.get(subject.name),
        device_speed=compared.device_ratios.get(subject.name),
        note=_note(subject, compared.latencies[subject.name], expected_ms),
        metric=subject.manifest.metric.name,
        exit_fractions=subject.exit_fractions,
        expected_ms=expected_ms,
        identity=artifact.identity(subject.manifest),
    )
