"""Expected improvement in logarithms, so that far tails keep their order (Ament et al., 2023)."""

import math


def log_normal_cdf(z: float) -> float:
    """Of the standard normal distribution; by its asymptotic series where the value is tiny."""
    if z > -6.0:
        return math.log(0.5 * math.erfc(-z / math.sqrt(2.0)))
    return _log_density(z) - math.log(-z)


def log_improvement(mean: float, spread: float, best: float) -> float:
    """The logarithm of E[max(0, x - best)], x normal; by its asymptotic series where the value is tiny."""
    z = (mean - best) / spread
    if z > -6.0:
        return math.log(spread * (z * 0.5 * math.erfc(-z / math.sqrt(2.0)) + math.exp(_log_density(z))))
    return math.log(spread) + _log_density(z) - 2.0 * math.log(-z)


def _log_density(z: float) -> float:
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)
