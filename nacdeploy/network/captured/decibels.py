"""Signal to noise ratio in decibels."""

import math

from torch import Tensor


def snr_db(reference: Tensor, other: Tensor) -> float:
    """10 log10(sum ref^2 / sum (ref - other)^2); inf where both are equal, -inf where one is not finite."""
    exact, test = reference.detach().double(), other.detach().double()
    signal, noise = float(exact.square().sum()), float((exact - test).square().sum())
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -math.inf
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
