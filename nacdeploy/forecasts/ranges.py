"""A value that is told before it is known, with the limits between which it lies in four of five cases."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """A value, and the limits between which it lies with a chance of 80 %."""

    value: float
    low: float
    high: float

    def holds(self, found: float) -> bool:
        """Tell whether a value that was found lies inside; what rounding adds does not count."""
        slack = 1e-6 * max(abs(self.low), abs(self.high))
        return self.low - slack <= found <= self.high + slack


def around(value: float, share: float) -> Range:
    """Return a value and the limits that are a share of it away."""
    return Range(value, value * (1 - share), value * (1 + share))
