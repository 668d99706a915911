"""The laws of a target, as functions that raise if a law is broken; for the targets of other packages too.

A target that is not installed (`absence` says why) keeps the first two laws; the other laws take a state with a Q, its
task and profile, or an artifact that `check_export` wrote.
"""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.commands.doctor import availability
from nacdeploy.commands.explain import explain
from nacdeploy.exporters import parity, targets
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.onnx_checks import parity as agreement
from nacdeploy.exporters.bench import Table, bench
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.export import export
from nacdeploy.exporters.targets import Target, pick
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.reports.explanation import Explanation
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.checkpoint import StepRecord, step_data
from nacdeploy.task import Task
from nacdeploy.testing.operators import require

MIN_DB = 20.0


def absence(target: Target, table: ExportTable) -> str | None:
    """Return why nothing can be built for a target here, or None; any error is one line of a NacdeployError."""
    try:
        runtime_of(target).check(table)
    except NacdeployError as error:
        require(bool(str(error)) and "\n" not in str(error), f"{target.name}: refused in other than one line: {error}")
        return str(error)
    return None


def check_facts(target: Target) -> None:
    """Law 1: a target is found by its name, its grids by their names, and its units are channels."""
    require(targets.parse(target.name) == target, f"{target.name}: parse gives another target of this name")
    require(len(target.grids) > 0, f"{target.name}: it has no grid")
    for grid in target.grids:
        require(targets.grid_named(grid.name) == grid, f"{target.name}: another target's grid is called {grid.name}")
        require(target.grid(grid.name) == grid, f"{target.name}: two of its grids are called {grid.name}")
        require(grid.max_weight_bits in (7, 8), f"{target.name}: no kernel takes {grid.max_weight_bits}-bit weights")
    require(target.grid("measured") == target.grids[0], f"{target.name}: an unknown grid is not its first")
    for is_quantized in (True, False):
        require(
            target.multiple(is_quantized) >= 1, f"{target.name}: a unit of {target.multiple(is_quantized)} channels"
        )


def check_doctor(target: Target, table: ExportTable) -> None:
    """Law 2: `doctor` says in one line whether the target works, and yes only where a build would not be refused."""
    found = availability(target, ())
    require(found.name == target.name, f"{target.name}: doctor calls it {found.name}")
    require(bool(found.why) and "\n" not in found.why, f"{target.name}: doctor says other than one line: {found.why}")
    reason = absence(target, table)
    require(not (found.works and reason), f"{target.name}: doctor says that it works, an export that {reason}")


def check_export(target: Target, state: CompressionState, task: Task, profile: Profile, folder: Path) -> Path:
    """Law 3: a quantized network is exported whole, agrees with its simulation and is named as the target's.

    Returns:
        The folder of the artifact.
    """
    steps = records.from_data(tuple[StepRecord, ...], [step_data(step) for step in state.steps])
    path = export(state, task, profile, target, folder / target.name, Context(steps))
    manifest, rows = artifact.load(path)
    require(manifest.target == target.name, f"{target.name}: the artifact is for {manifest.target}")
    missing = [name for name in target.files if name not in manifest.files]
    require(not missing, f"{target.name}: the artifact has no {missing}")
    require(artifact.size_bytes(path, manifest) > 0, f"{target.name}: what is deployed has no bytes")
    require(any(row.held == "int8" for row in rows), f"{target.name}: nothing is held in int8")
    own = [target.name] if runtime_of(target).open is not None else []
    asked = [check.optimization for check in manifest.checks]
    require(asked == [*own, *target.optimizations], f"{target.name}: parity asked {asked}")
    return path


def check_answers(path: Path, task: Task) -> None:
    """Law 4: the runner of an artifact answers as ONNX Runtime without its optimisations, on single images and on
    batches; the timed call is that very call."""
    manifest, _ = artifact.load(path)
    runner = pick.pick(path, manifest, threads=1).runner
    images = task.data.normalize(task.data.test.images[:32]).numpy()
    plain = parity.run_all(OnnxRunner(path / manifest.model_file, optimization="disabled"), [images])
    for batches in ([images], [*np.split(images, len(images))]):
        for expected, found in zip(plain, parity.run_all(runner, batches), strict=True):
            compared = agreement(expected, found, manifest.target, task.metric)
            ratio_db = math.inf if compared.snr_db is None else compared.snr_db
            require(found.shape == expected.shape, f"{manifest.target}: answers of shape {found.shape}")
            require(ratio_db >= MIN_DB, f"{manifest.target}: its answers are {ratio_db:.1f} dB from ONNX Runtime's")
    timed = cast("list[NDArray[Any]]", runner.subject(images).run())
    require(
        all(np.array_equal(a, b) for a, b in zip(timed, runner.run(images), strict=True)),
        f"{manifest.target}: what is timed is not what answers",
    )


def check_bench(path: Path, baseline: Path, task: Task, profile: Profile) -> Table:
    """Law 5: an artifact is timed in turns with a baseline, at every batch size, with an interval.

    Returns:
        The table.
    """
    table = bench([path], baseline, task.data, profile.bench)
    manifest, _ = artifact.load(path)
    own = [row for row in table.rows if row.artifact == str(path)]
    sizes = [row.latency.batch_size for row in own]
    require(sizes == list(profile.bench.batch_sizes), f"{manifest.target}: timed at batch sizes {sizes}")
    for row in own:
        require(0 < row.speed.low <= row.speed.value <= row.speed.high, f"{manifest.target}: speed {row.speed}")
        require(bool(row.runtime) and "\n" not in row.runtime, f"{manifest.target}: runtime '{row.runtime}'")
        require(math.isfinite(row.score), f"{manifest.target}: score {row.score}")
    return table


def check_explanation(path: Path) -> Explanation:
    """Law 6: an artifact is explained with a row for each layer in the file, and a note if the times are another
    target's.

    Returns:
        The explanation.
    """
    manifest, lowering = artifact.load(path)
    found = explain(path, rounds=2)
    nodes = {node.name for node in onnx.load_model(str(path / manifest.model_file)).graph.node}
    layers = {row.layer for row in lowering if row.node in nodes}
    require({row.layer for row in found.rows} >= layers, f"{manifest.target}: a layer has no row")
    total = found.between_fraction + sum(row.time_fraction for row in found.rows)
    require(math.isclose(total, 1, abs_tol=1e-6), f"{manifest.target}: the shares of time add up to {total}")
    target = targets.parse(manifest.target)
    is_said = target.timed_by_onnx_runtime or bool(target.note_on_times)
    require(is_said, f"{manifest.target}: times are ONNX Runtime's, and note_on_times does not say so")
    return found
