"""A network, or an artifact that answers, from the folder of a command."""

from pathlib import Path
from typing import Any

from torch import nn

from nacdeploy import models
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.exits import deployed
from nacdeploy.exporters.exits.deployed import Deployed
from nacdeploy.network.served import served
from nacdeploy.results.outcome import checkpoint_folder
from nacdeploy.strategies.steps import checkpoint as checkpoints


def load(source: Path | str, *, model: str | None = None, task: Any = None, threads: int = 1) -> nn.Module | Deployed:
    """Return the network of a result or checkpoint folder, in evaluation mode; of an artifact's, what it deploys.

    The network is a module that takes normalised images (N, C, H, W) and returns logits (N, classes). The network of a
    task of one's own takes and returns what that network does.

        >>> import nacdeploy
        >>> network = nacdeploy.load("runs/transfer-QEF-1")
        >>> network(network.example_input()).shape
        torch.Size([1, 10])

    An artifact answers normalised images (N, C, H, W) as its files run, exits in segments where it has them, and says
    which exit answered each image.

        >>> answered = nacdeploy.load("runs/export-ort-1").run(network.example_input())
        >>> answered.outputs.shape, answered.exits.shape
        ((1, 10), (1,))

    Args:
        threads: the threads of an artifact's runtime.
        task: the task whose network it is, if it is not at hand.
        model: the file of the network. A file that only the checkpoint names does not run until the user names it here.

    Raises:
        UsageError: there is no checkpoint and no artifact, or the checkpoint is damaged.
        NacdeployError: a file of an artifact is missing or damaged.
    """
    if artifact.is_artifact(Path(source)):
        return deployed.load(Path(source), threads=threads)
    models.name_by_user(model, task)
    state, _ = checkpoints.load(checkpoint_folder(Path(source)))
    return served(state.network)
