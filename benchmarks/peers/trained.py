"""What is trained for the comparison, all by the recipe of the profile: nacdeploy's chains, torch-pruning alone, dense
networks from scratch. Each leaves a folder with a model.onnx that is reused when it is there.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch_pruning
from torch import nn

import nacdeploy
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.base import records
from nacdeploy.base.progress import Progress
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.sessions.session import Session, epoch_report
from nacdeploy.strategies import baseline
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.task.training import Report

MODEL = "model.onnx"


@dataclass(frozen=True)
class Trained:
    """made.json: what was trained, for how many epochs, its MACs and its validation accuracy in torch (a fraction)."""

    name: str
    n_epochs: int
    macs: int
    validation_accuracy: float


def chain(word: str, session: Session, place: Path, progress: Progress) -> Path:
    """The artifact of a chain of nacdeploy, exported anew each time by the code at hand; its trainings are remembered,
    and chains with the same beginning share them."""
    memory = DiskMemory(place.parent / "memory", session.task, session.profile)
    with progress.bar(f"chain {word}") as bar:
        report = epoch_report(bar, ACCURACY, f"{word}: epoch")
        task, profile = session.task, session.profile
        state = follow(Chain.parse(word), session.baseline, task, profile, memory=memory, report=report).state
    progress.say(f"chain {word}: {100 * state.metrics.score:.2f} % on validation in torch")
    record = checkpoint.record_of(state, task, profile, baseline_checkpoint=str(session.baseline_folder))
    with records.new_directory(place / "checkpoint", replace=True) as folder:
        checkpoint.write(folder, state, record)
    shutil.rmtree(place / "artifact", ignore_errors=True)
    source, runs = place / "checkpoint", place / "runs"
    return nacdeploy.export(source=source, out=place / "artifact", target="ort", runs=runs, wandb=False) / MODEL


def torch_pruning_alone(ratio: float, n_epochs: int, session: Session, place: Path, progress: Progress) -> Path:
    """torch-pruning's own pruner on the baseline, widths in eights, then `n_epochs` of the finetune recipe, in FP32."""

    def make(report: Report) -> CompressionState:
        backbone = copy.deepcopy(session.baseline.network.backbone)
        torch_pruning.pruner.BasePruner(
            backbone,
            session.task.example_input(),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            round_to=8,
            ignored_layers=[m for m in backbone.modules() if isinstance(m, nn.Linear)],
        ).step()
        network = Network(backbone, session.baseline.network.grid, session.baseline.network.input_shape).eval()
        return _trained(network, session.profile.finetune, n_epochs, session, report)

    return _kept(f"torch-pruning {ratio:g}", n_epochs, make, session, place, progress)


def dense(width: int, n_epochs: int, session: Session, place: Path, progress: Progress) -> Path:
    """A narrower network of the same architecture, trained from scratch by the baseline's recipe for `n_epochs`."""

    def make(report: Report) -> CompressionState:
        return _trained(narrow(width, session), session.profile.train, n_epochs, session, report)

    return _kept(f"dense width {width}", n_epochs, make, session, place, progress)


def control(n_epochs: int, session: Session, place: Path, progress: Progress) -> Path:
    """The FP32 baseline, trained on for `n_epochs` of the finetune recipe."""

    def make(report: Report) -> CompressionState:
        return baseline.control(session.baseline, n_epochs, session.task, session.profile, report)

    return _kept("control", n_epochs, make, session, place, progress)


def narrow(width: int, session: Session) -> Network:
    """The profile's architecture, untrained, at another width."""
    profile = profiles.override(session.profile, {"width": width})
    return baseline.plain_network(tasks.make(profile.model, profile.data, profile), profile)


def _trained(network: Network, recipe: TrainTable, n_epochs: int, session: Session, report: Report) -> CompressionState:
    recipe = recipe.model_copy(update={"epochs": n_epochs})
    baseline.train_network(network, session.task, recipe, session.profile.seed, report)
    return baseline.initial_state(network, session.task)


def _kept(
    name: str,
    n_epochs: int,
    make: Callable[[Report], CompressionState],
    session: Session,
    place: Path,
    progress: Progress,
) -> Path:
    """The FP32 ONNX in `place`, trained and exported where it is not there yet; the folder appears whole or not."""
    if not (place / MODEL).is_file():
        with progress.bar(name) as bar:
            state = make(epoch_report(bar, ACCURACY, f"{name}: epoch"))
        made = Trained(name, n_epochs, state.metrics.cost.macs, state.metrics.score)
        with records.new_directory(place, replace=True) as folder:
            (folder / MODEL).write_bytes(to_onnx(state.network, session.profile.export.opset).model)
            records.write_json(folder / "made.json", made)
        progress.say(f"{name}: {100 * made.validation_accuracy:.2f} % on validation after {n_epochs} epochs")
    return place / MODEL
