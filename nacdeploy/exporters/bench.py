"""Bench: artifacts and their uncompressed baseline timed in turns in one run, and the score of the deployed artifacts.

On a GPU the baseline is an FP16 engine, every artifact is timed with and without CUDA graphs, and the device's own time
stands beside the time end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nacdeploy.base import html, latency
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Latency, Ratio
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.targets import gpu, pick
from nacdeploy.exporters.targets.gpu import GpuState
from nacdeploy.exporters.targets.ported import ported
from nacdeploy.exporters.targets.runtime import Picked, Runner
from nacdeploy.metrics import DEFAULT, AsksBaseline, Metric, asks_the_baseline, named, scored, shown
from nacdeploy.network.attachments.early_exit import take_exits
from nacdeploy.profile.tables.deployment import BenchTable
from nacdeploy.task import evaluate as evaluation


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
    picked: Picked
    cuda_graph: bool
    score: float


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
            picked = pick.pick(path, manifest, threads=table.threads, host=host, cuda_graph=cuda_graph)
            picked = replace(picked, runner=ported(picked.runner, manifest.ports))
            data = data if subjects else _answered(picked.runner, manifest, data)
            score = deployed_score(picked.runner, manifest, as_taken(manifest, data), data.test, metric)
            subjects.append(_Subject(str(path), path, manifest, picked, cuda_graph, score))
        rows += _timed(subjects, data, table)
    after = gpu.states() if host else ()
    return Table(str(baseline), latency.machine(), rows[0].runtime, tuple(rows), before, after)


def deployed_score(
    runner: Runner, manifest: Manifest, data: Dataset, images: ImageSet, metric: Metric | None = None
) -> float:
    """Score the answers of an artifact, with its gate applied, by `metric` or the artifact's own."""
    return (metric or manifest.metric).score(_answer(runner, manifest, data, images), images.labels)


def _answered(runner: Runner, manifest: Manifest, data: Dataset) -> Dataset:
    """Return the data with the baseline's answers as labels of the test split, if its metric asks for these."""
    metric = manifest.metric
    if not asks_the_baseline(metric) or not isinstance(metric, AsksBaseline):
        return data
    labels = metric.answers(_answer(runner, manifest, as_taken(manifest, data), data.test))
    return replace(data, test=ImageSet(data.test.images, labels))


def _answer(runner: Runner, manifest: Manifest, data: Dataset, images: ImageSet) -> Tensor:
    """Return the outputs (N, K) that the artifact answers with."""
    parts = [runner.run(x.numpy()) for x in evaluation.batches(data, images, 64)]
    outputs = dict(zip(runner.output_names, (np.concatenate(c) for c in zip(*parts, strict=True)), strict=True))
    exits = manifest.gate.exits if manifest.gate else ()
    names = [*(e.output for e in exits), runner.output_names[0]]
    if missing := [name for name in names if name not in outputs]:
        raise UsageError(f"the manifest's gate names the output '{missing[0]}', which the model does not have")
    found = [torch.from_numpy(outputs[name]) for name in names]
    answer, _ = take_exits(found, [e.threshold for e in exits], manifest.metric.confidence)
    return answer


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
        image = data.normalize(data.test.images[:1])
        images = image.repeat(batch_size, *[1] * (image.dim() - 1)).numpy()
        compared = latency.compare(
            {s.name: s.picked.runner.subject(images) for s in subjects},
            baseline=subjects[0].name,
            batch_size=batch_size,
            threads=table.threads,
            n_rounds=table.n_rounds,
            round_ms=table.round_ms,
        )
        rows += [_row(s, subjects[0], compared, len(data.test)) for s in subjects]
    return rows


def _row(subject: _Subject, baseline: _Subject, compared: latency.Comparison, n_images: int) -> Row:
    size = artifact.size_bytes(subject.path, subject.manifest)
    notes = ["no time saved by exits in this form"] if subject.manifest.gate else []
    notes += [subject.picked.note] if subject.picked.note else []
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
        runtime=subject.picked.runtime,
        cuda_graph=subject.cuda_graph,
        device_latency=compared.device_latencies.get(subject.name),
        device_speed=compared.device_ratios.get(subject.name),
        note="; ".join(notes),
        metric=subject.manifest.metric.name,
    )
