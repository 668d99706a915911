"""A network from what a command left."""

from pathlib import Path

from nacdeploy import models
from nacdeploy.network.network import Network
from nacdeploy.results.outcome import checkpoint_folder
from nacdeploy.strategies.steps import checkpoint as checkpoints


def load(source: Path | str, *, model: str | None = None) -> Network:
    """The network of a result or checkpoint folder, in evaluation mode: a module that takes normalised images
    (N, C, H, W) and gives logits (N, classes). `model` names the file of the network where only the checkpoint does, so
    that it may run.

        network = nacdeploy.load("runs/transfer-QPPF-1")

    Raises:
        UsageError: there is no checkpoint, or it is damaged.
    """
    models.name_by_user(model)
    state, _ = checkpoints.load(checkpoint_folder(Path(source)))
    return state.network
