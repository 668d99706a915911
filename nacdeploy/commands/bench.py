"""Timing artifacts and the FP32 baseline in turns."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nacdeploy import data as datasets
from nacdeploy import models
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress, default
from nacdeploy.commands.export import exported_baseline
from nacdeploy.data import Dataset
from nacdeploy.exporters import bench as bench_runner
from nacdeploy.exporters import gates
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import DataSource, Manifest
from nacdeploy.metrics import Metric
from nacdeploy.models import ModelSpec, pretrained
from nacdeploy.profile.tables.deployment import BenchTable


def bench(
    artifacts: Sequence[Path | str],
    *,
    baseline: Path | str | None = None,
    data: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    model: str | None = None,
    task: Any = None,
    require: Sequence[str] = (),
    progress: Progress | None = None,
) -> bench_runner.Table:
    """Time artifacts and the FP32 baseline in turns in one run, and score them on the test split.

    Without `baseline`, the FP32 network of the first artifact is exported once and used.

        >>> import nacdeploy
        >>> artifact = nacdeploy.export(source="runs/transfer-QEF-1", target="onnx", out="artifact")
        >>> table = nacdeploy.bench([artifact], baseline="runs/export-ort-1", batch=1)
        >>> [row.target for row in table.rows]
        ['ort', 'onnx']

    Args:
        task: the task whose network it is, if it is not at hand.
        model: the file of the network. A file that only the artifact names does not run until the user names it here.
        require: what every artifact but the baseline must hold at every batch size, such as `speedup>=1.2`, `drop<=1`.

    Raises:
        UsageError: no artifact, data of another shape, or a requirement that cannot be read.
        NacdeployError: a file of an artifact is damaged.
        GateError: an artifact misses a requirement; the error's `table` holds what was measured.
    """
    progress, requirements = progress or default(), gates.parsed(require)
    models.name_by_user(model, task)
    paths = [Path(path) for path in artifacts]
    manifest, _ = artifact.load(paths[0])
    source = manifest.data
    if source is None:
        raise UsageError(f"{paths[0]} does not say which data it was made with; export it again")
    dataset, metric = _data(manifest, data, source)
    gates.check(requirements, metric)
    given = {"batch_sizes": (batch,) if batch else None, "threads": threads}
    wanted = {key: value for key, value in given.items() if value is not None}
    settings = BenchTable.model_validate({**source.bench.model_dump(), **wanted})
    made = nullcontext(Path(baseline)) if baseline is not None else exported_baseline(manifest, paths[0], progress)
    with made as reference:
        progress.say(f"timing {len(paths)} artifact(s) against {reference}, turn by turn")
        table = bench_runner.bench(paths, reference, dataset, settings, metric)
    gates.judge(table, requirements)
    return table


def _data(manifest: Manifest, data: str | None, source: DataSource) -> tuple[Dataset, Metric]:
    """Return the data to score on, and the metric; of a task of the user's own, both are the task's."""
    if manifest.ports is not None:
        name = records.from_data(ModelSpec, manifest.model, where="the artifact's model").located
        table, named = source.images.model_dump(mode="json"), data or source.name
        named = name if named == manifest.model.get("name") else named
        profile = profiles.from_mapping({"name": "bench", "model": name, "data": named, "images": table})
        task = tasks.make(name, named, profile)
        return task.data, task.metric
    images = pretrained.settled(str(manifest.model.get("name")), source.images)
    return datasets.load(data or source.name, images, manifest.metric), manifest.metric
