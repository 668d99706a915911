"""A network from the folder of a command."""

from pathlib import Path
from typing import Any

from torch import nn

from nacdeploy import models
from nacdeploy.network.served import served
from nacdeploy.results.outcome import checkpoint_folder
from nacdeploy.strategies.steps import checkpoint as checkpoints


def load(source: Path | str, *, model: str | None = None, task: Any = None) -> nn.Module:
    """Return the network of a result or checkpoint folder, in evaluation mode.

    The network is a module that takes normalised images (N, C, H, W) and returns logits (N, classes). The network of a
    task of one's own takes and returns what that network does.

        >>> import nacdeploy
        >>> network = nacdeploy.load("runs/transfer-QEF-1")
        >>> network(network.example_input()).shape
        torch.Size([1, 10])

    Args:
        task: the task whose network it is, if it is not at hand.
        model: the file of the network. A file that only the checkpoint names does not run until the user names it here.

    Raises:
        UsageError: there is no checkpoint, or it is damaged.
    """
    models.name_by_user(model, task)
    state, _ = checkpoints.load(checkpoint_folder(Path(source)))
    return served(state.network)
