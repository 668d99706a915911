"""How sure outputs (N, K) are, from 0 to 1: the rules by which a gate lets an answer leave early.

Softmax maximum and entropy as in BranchyNet (Teerapittayanon et al., 2016), margin as the distance of the two best.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rule = Callable[[NDArray[Any]], NDArray[Any]]


def softmax_maximum(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return the largest share of the softmax, (N,)."""
    raised = np.exp(outputs - outputs.max(1, keepdims=True))
    return np.asarray(1 / raised.sum(1))


def entropy(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return 1 minus the softmax's entropy in units of its largest value, log K, (N,)."""
    shifted = outputs - outputs.max(1, keepdims=True)
    raised = np.exp(shifted)
    total = raised.sum(1)
    nats = np.log(total) - (raised * shifted).sum(1) / total
    return np.asarray(1 - nats / np.log(outputs.shape[1]))


def margin(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return the distance of the two largest shares of the softmax, (N,)."""
    best = np.partition(outputs, -2, axis=1)[:, -2:]
    raised = np.exp(outputs - best[:, 1:])
    return np.asarray((1 - np.exp(best[:, 0] - best[:, 1])) / raised.sum(1))


def least_sure_label(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return how far the label nearest to even odds is from them, (N,), where every output is a label of its own."""
    return np.asarray(np.abs(np.tanh(outputs / 2)).min(1))


RULES: dict[str, Rule] = {
    "softmax": softmax_maximum,
    "entropy": entropy,
    "margin": margin,
    "labels": least_sure_label,
}
SAID = {
    "softmax": "softmax maximum",
    "entropy": "certainty (1 - entropy / log K)",
    "margin": "margin of the two best",
    "labels": "least sure label",
}
