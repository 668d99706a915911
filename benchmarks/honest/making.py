"""What fills the cells: the baseline in rounds, dense networks, torch-pruning, and nacdeploy's chains.

All train by the recipe of the profile; a chain's file is what `export` ships, every other one plain FP32 ONNX.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch_pruning
from torch import nn

import nacdeploy
from benchmarks.honest.bench import Bench
from benchmarks.honest.cells import Made
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import epoch_report
from nacdeploy.strategies import baseline as baselines
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.task import Task, distillation, training
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.distillation import Distillation

CHECKPOINT, FP32, ARTIFACT = "checkpoint", "model.onnx", "artifact"
TEACHING = Distillation(weight=0.5, temperature=2.0)


def first_round(bench: Bench, folder: Path) -> Made:
    """The baseline after the epochs of its recipe."""
    network = baselines.plain_network(bench.task, bench.profile)
    with bench.progress.bar("baseline") as bar:
        report = epoch_report(bar, bench.task.metric)
        baselines.train_network(network, bench.task, bench.profile.train, bench.seed, report)
    return _kept(baselines.initial_state(network, bench.task), bench.n_epochs, bench, folder)


def next_round(bench: Bench, before: Path, n_epochs: int, folder: Path) -> Made:
    """The baseline in `before`, which was trained for `n_epochs`, given as many more as the first time."""
    state, _ = checkpoint.load(before / CHECKPOINT)
    with bench.progress.bar("baseline, another round") as bar:
        report = epoch_report(bar, bench.task.metric)
        state = baselines.control(state, bench.n_epochs, bench.task, bench.profile, report)
    return _kept(state, n_epochs + bench.n_epochs, bench, folder)


def loaded(place: Path) -> Network:
    """The network of a cell's folder."""
    return checkpoint.load(place / CHECKPOINT)[0].network


def dense(bench: Bench, task: Task, profile: Profile, n_epochs: int, teacher: Path | None, folder: Path) -> Made:
    """A dense network from scratch for `n_epochs`, taught by the baseline in `teacher` if there is one, and our `Q`."""
    network = baselines.plain_network(task, profile)
    recipe = profile.train.model_copy(update={"epochs": n_epochs})
    with bench.progress.bar("dense") as bar:
        report = epoch_report(bar, task.metric)
        if teacher is None:
            baselines.train_network(network, task, recipe, bench.seed, report)
        else:
            _taught(network, loaded(teacher), task, recipe, bench.seed, report)
    return _exported(baselines.initial_state(network, task), "Q", task, profile, bench, n_epochs, folder)


def chain(bench: Bench, start: Path, word: str, n_epochs: int, folder: Path) -> Made:
    """A chain on the baseline in `start`, exported."""
    state, _ = checkpoint.load(start / CHECKPOINT)
    return _exported(state, word, bench.task, bench.profile, bench, n_epochs, folder, str(start / CHECKPOINT))


def torch_pruned(bench: Bench, start: Path, ratio: float, n_epochs: int, folder: Path) -> Made:
    """torch-pruning's own pruner on the baseline in `start`, then F's recipe without anything of ours, in FP32."""
    state, _ = checkpoint.load(start / CHECKPOINT)
    network = cut_by_torch_pruning(state.network, ratio, bench.task)
    with bench.progress.bar(f"torch-pruning {ratio:g}") as bar:
        report = epoch_report(bar, bench.task.metric)
        baselines.train_network(network, bench.task, bench.profile.of(FinetuneTable), bench.seed, report)
    return _float(network, n_epochs, bench.profile, folder)


def cut_by_torch_pruning(network: Network, ratio: float, task: Task) -> Network:
    """A network cut by its magnitudes, the same share of every layer, widths in eights, the classifier's answers left
    alone."""
    backbone = copy.deepcopy(network.backbone)
    torch_pruning.pruner.BasePruner(
        backbone,
        task.example_input(),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=8,
        ignored_layers=[m for m in backbone.modules() if isinstance(m, nn.Linear)],
    ).step()
    return Network(backbone, network.grid, network.input_shape).eval()


def _taught(network: Network, teacher: Network, task: Task, recipe: Any, seed: int, report: training.Report) -> None:
    def score() -> float:
        return evaluation.evaluate(network, task, task.data.validation).score

    batches = distillation.batches(task, teacher, TEACHING, recipe.batch_size, seed)
    loss = distillation.loss(task.metric, TEACHING)
    training.fit(network, batches, score, task.metric, recipe, seed, report, loss=loss)


def _kept(state: CompressionState, n_epochs: int, bench: Bench, folder: Path) -> Made:
    _write(folder, state, bench.task, bench.profile)
    return _float(state.network, n_epochs, bench.profile, folder)


def _write(folder: Path, state: CompressionState, task: Task, profile: Profile, **named: str) -> None:
    (folder / CHECKPOINT).mkdir(exist_ok=True)
    checkpoint.write(folder / CHECKPOINT, state, checkpoint.record_of(state, task, profile, **named))


def _float(network: Network, n_epochs: int, profile: Profile, folder: Path) -> Made:
    (folder / FP32).write_bytes(to_onnx(network, profile.export.opset).model)
    return Made(FP32, n_epochs)


def _exported(
    start: CompressionState,
    word: str,
    task: Task,
    profile: Profile,
    bench: Bench,
    n_epochs: int,
    folder: Path,
    baseline: str | None = None,
) -> Made:
    with bench.progress.bar(word) as bar:
        report = epoch_report(bar, task.metric)
        state = follow(Chain.parse(word), start, task, profile, report=report).state
    named = {} if baseline is None else {"baseline_checkpoint": baseline}
    _write(folder, state, task, profile, **named)
    out, runs = folder / ARTIFACT, bench.folder / "runs"
    export: Callable[..., Path] = partial(nacdeploy.export, target="ort", runs=runs, wandb=False)
    export(source=folder / CHECKPOINT, out=out, progress=bench.progress)
    return Made(f"{ARTIFACT}/{FP32}", n_epochs)
