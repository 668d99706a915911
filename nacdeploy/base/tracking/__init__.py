"""Tracking: the record of a run's rows, tables and artifacts, written while the run goes on.

The JSON-lines record is always written. W&B and MLflow stand beside it through their real clients, each in its own
module; a failure of theirs is one line of warning and never ends a run.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base.progress import Say
from nacdeploy.base.tracking.mlflow_tracker import MlflowTracker
from nacdeploy.base.tracking.tracker import RECORD_NAME, Item, JsonLinesTracker, Served, Tensor, Tracker, Trackers
from nacdeploy.base.tracking.wandb_tracker import WandbTracker, wandb_mode

__all__ = [
    "RECORD_NAME",
    "Item",
    "JsonLinesTracker",
    "Served",
    "Sinks",
    "Tensor",
    "Tracker",
    "Trackers",
    "open_tracker",
    "wandb_mode",
]


@dataclass(frozen=True)
class Sinks:
    """The trackers that are wanted beside the record. `store` is MLflow's folder, where MLFLOW_TRACKING_URI names no
    other place."""

    wandb: bool = False
    mlflow: bool = False
    store: Path = Path("runs") / "mlflow"


def open_tracker(directory: Path, sinks: Sinks, *, project: str, config: Mapping[str, object], say: Say) -> Tracker:
    """Open the trackers of a run: `directory/tracking.jsonl`, and those that are wanted and not disabled.

    Raises:
        NacdeployError: the directory is not writable.
    """
    record = JsonLinesTracker(directory / RECORD_NAME)
    record.row("config", {"project": project, "config": config})
    found: list[Tracker] = [record]
    mode = wandb_mode(os.environ) if sinks.wandb else "disabled"
    if mode != "disabled":
        found.append(WandbTracker(directory, project, config, directory.name, mode=mode, say=say))
    elif sinks.wandb:
        say(f"W&B: disabled by WANDB_MODE; rows go to {directory / RECORD_NAME}")
    if sinks.mlflow:
        found.append(MlflowTracker(sinks.store, project, config, directory.name, say=say))
    return Trackers(tuple(found))
