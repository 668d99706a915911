"""LeNet-5 as Deep Compression uses it (Han et al., 2016, table 3): conv 20, conv 50, linear 500, linear 10."""

from torch import nn


def lenet5(n_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """For images (N, C, 28, 28): 431,080 parameters."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, n_classes),
    )
