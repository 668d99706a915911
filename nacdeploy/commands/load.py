"""A network from the folder of a command."""

from pathlib import Path

from nacdeploy import models
from nacdeploy.network.network import Network
from nacdeploy.results.outcome import checkpoint_folder
from nacdeploy.strategies.steps import checkpoint as checkpoints


def load(source: Path | str, *, model: str | None = None) -> Network:
    """Return the network of a result or checkpoint folder, in evaluation mode.

    The network is a module that takes normalised images (N, C, H, W) and returns logits (N, classes).

        >>> import nacdeploy
        >>> network = nacdeploy.load("runs/transfer-QEF-1")
        >>> network(network.example_input()).shape
        torch.Size([1, 10])

    Args:
        model: the file of the network. A file that only the checkpoint names does not run until the user names it here.

    Raises:
        UsageError: there is no checkpoint, or it is damaged.
    """
    models.name_by_user(model)
    state, _ = checkpoints.load(checkpoint_folder(Path(source)))
    return state.network
