"""Catalog: the nine strategies that NAC published, with the figures it printed for them.

The accuracies and the two ratios are NAC's own and were measured its way: on the test set, with the ratios multiplied
up step by step, exits that cost no memory, and a stem and classifier counted as quantised though they stayed float.
They are printed beside ours for comparison and decide nothing.
"""

from dataclasses import dataclass

from nacdeploy.base.errors import unknown
from nacdeploy.strategies.chain import Chain

NAC_README = "NAC README, doctorcoal/NAC (MIT)"


@dataclass(frozen=True)
class PublishedStrategy:
    """One row of a published table. `accuracy` and `accuracy_loss` are fractions; a negative loss is a gain."""

    name: str
    model: str
    data: str
    chain: Chain
    accuracy: float
    accuracy_loss: float
    bitops_ratio: float
    memory_ratio: float
    gpu_hours: float
    source: str = NAC_README


def _row(
    model: str, data: str, word: str, accuracy: float, loss: float, bitops: float, memory: float, hours: float
) -> PublishedStrategy:
    chain = Chain.parse(word)
    return PublishedStrategy(f"nac-{model}-{data}", model, data, chain, accuracy, loss, bitops, memory, hours)


PUBLISHED: tuple[PublishedStrategy, ...] = (
    _row("resnet34", "cifar10", "QQFEEEEEEEEP", 0.9088, 0.0130, 100.80, 28.56, 29.0),
    _row("resnet34", "cifar100", "PQQFE", 0.7807, 0.0101, 35.50, 8.23, 36.0),
    _row("resnet34", "tiny-imagenet", "QPPPFPPPQFPEPPF", 0.6535, 0.0185, 37.87, 10.19, 140.0),
    _row("mobilenet_v2", "cifar10", "QPPPFPPFEPPQFPPF", 0.9335, 0.0075, 47.48, 10.85, 21.0),
    _row("mobilenet_v2", "cifar100", "EQQFPF", 0.7682, 0.0089, 35.93, 8.17, 32.0),
    _row("mobilenet_v2", "tiny-imagenet", "PQPPFQFPFPFEE", 0.6278, 0.0198, 41.08, 9.02, 79.0),
    _row("deit_tiny", "cifar10", "QPPPPPPPPQPPF", 0.9080, 0.0010, 41.34, 10.06, 18.0),
    _row("deit_tiny", "cifar100", "QQEPPF", 0.6900, 0.0160, 34.19, 8.37, 25.0),
    _row("deit_tiny", "tiny-imagenet", "QEPQF", 0.5650, -0.0110, 35.06, 8.18, 46.0),
)


def find(name: str) -> PublishedStrategy:
    """The published strategy of that name, such as `nac-resnet34-cifar10`.

    Raises:
        UsageError: there is none; the nearest known name is given.
    """
    for strategy in PUBLISHED:
        if strategy.name == name:
            return strategy
    raise unknown("published strategy", name, [strategy.name for strategy in PUBLISHED])
