"""Bench: artifacts and the FP32 baseline timed in turns in one run, and the accuracy of what is deployed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nacdeploy import evaluate as evaluation
from nacdeploy import latency, records
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.errors import UsageError
from nacdeploy.exporters import artifact
from nacdeploy.exporters.artifact import Manifest
from nacdeploy.exporters.onnx import to_onnx
from nacdeploy.latency import Latency, Ratio
from nacdeploy.layers.early_exit import take_exits
from nacdeploy.profile import BenchTable
from nacdeploy.runners.onnx import OnnxRunner
from nacdeploy.strategies.state import CompressionState


@dataclass(frozen=True)
class Row:
    """One artifact at one batch size: accuracy (fraction, of the session that is timed), bytes of the model file,
    measured latency, and the speed against the baseline with its 95 % interval."""

    artifact: str
    chain: str
    target: str
    accuracy: float
    n_images: int
    model_bytes: int
    size_ratio: float
    latency: Latency
    speed: Ratio
    note: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of one interleaved run, and the machine it ran on."""

    baseline: str
    machine: str
    runtime: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Exit:
    """One exit of a manifest's gate: its output and the confidence (softmax maximum) from which it answers."""

    output: str
    threshold: float
    place: str


@dataclass(frozen=True)
class _Subject:
    name: str
    path: Path
    manifest: Manifest
    runner: OnnxRunner
    accuracy: float


def bench(artifacts: Sequence[Path], baseline: Path, data: Dataset, table: BenchTable) -> Table:
    """Time artifacts against `baseline` and score them on the test split of `data`.

    Raises:
        UsageError: an artifact takes other images than the data has, or is no artifact.
        NacdeployError: an artifact is damaged.
    """
    subjects = [_subject(path, data, table.threads) for path in dict.fromkeys([baseline, *artifacts])]
    rows: list[Row] = []
    for batch_size in table.batch_sizes:
        images = data.normalize(data.test.images[:1]).repeat(batch_size, 1, 1, 1).numpy()
        calls = {s.name: partial(s.runner.run, images) for s in subjects}
        compared = latency.compare(
            calls,
            baseline=subjects[0].name,
            batch_size=batch_size,
            threads=table.threads,
            n_rounds=table.n_rounds,
            round_ms=table.round_ms,
        )
        rows += [_row(s, subjects[0], compared, len(data.test)) for s in subjects]
    runtime = "ONNX Runtime, CPUExecutionProvider, all graph optimisations"
    return Table(subjects[0].name, latency.machine(), runtime, tuple(rows))


def deployed_accuracy(runner: OnnxRunner, manifest: Manifest, data: Dataset, images: ImageSet) -> float:
    """The accuracy (fraction) of what the artifact answers, its gate applied."""
    parts = [runner.run(x.numpy()) for x in evaluation.batches(data, images, 64)]
    outputs = dict(zip(runner.output_names, (np.concatenate(c) for c in zip(*parts, strict=True)), strict=True))
    exits = records.from_data(tuple[Exit, ...], (manifest.gate or {}).get("exits", ()), where="the manifest's gate")
    names = [*(e.output for e in exits), runner.output_names[0]]
    if missing := [name for name in names if name not in outputs]:
        raise UsageError(f"the manifest's gate names the output '{missing[0]}', which the model does not have")
    answer, _ = take_exits([torch.from_numpy(outputs[name]) for name in names], [e.threshold for e in exits])
    return float((answer.argmax(1) == images.labels).double().mean())


def speed_ratio(state: CompressionState, baseline: CompressionState, table: BenchTable, opset: int) -> float:
    """How many times faster than the baseline a state runs as exported for ONNX Runtime (batch 1), measured."""
    image = state.network.example_input().numpy()
    runners = {n: OnnxRunner(to_onnx(s.network, opset).model) for n, s in (("baseline", baseline), ("now", state))}
    calls = {name: partial(runner.run, image) for name, runner in runners.items()}
    compared = latency.compare(
        calls, baseline="baseline", batch_size=1, threads=1, n_rounds=table.n_rounds, round_ms=table.round_ms
    )
    return compared.ratios["now"].value


def _subject(path: Path, data: Dataset, threads: int) -> _Subject:
    manifest, _ = artifact.load(path)
    expected = manifest.inputs[0].shape[1:] if manifest.inputs else ()
    given = (data.channels, *data.input_size)
    if tuple(expected) != given:
        raise UsageError(
            f"{path} takes images of shape {tuple(expected)}, the data has {given}; give its own with --data"
        )
    if manifest.class_names != data.class_names:
        raise UsageError(f"{path} tells other classes apart than data set '{data.name}'; give its own with --data")
    runner = OnnxRunner(path / manifest.model_file, threads=threads)
    return _Subject(str(path), path, manifest, runner, deployed_accuracy(runner, manifest, data, data.test))


def _row(subject: _Subject, baseline: _Subject, compared: latency.Comparison, n_images: int) -> Row:
    size = artifact.size_bytes(subject.path, subject.manifest)
    notes = []
    if subject.manifest.gate:
        notes.append("no time saved by exits in this form")
    if subject.manifest.engines:
        notes.append("the ONNX graph in ONNX Runtime; the engines' speed is measured on a GPU")
    return Row(
        artifact=subject.name,
        chain=subject.manifest.chain,
        target=subject.manifest.target,
        accuracy=subject.accuracy,
        n_images=n_images,
        model_bytes=size,
        size_ratio=artifact.size_bytes(baseline.path, baseline.manifest) / size,
        latency=compared.latencies[subject.name],
        speed=compared.ratios[subject.name],
        note="; ".join(notes),
    )
