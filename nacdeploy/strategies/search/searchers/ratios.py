"""The ratios of figures as a vector of logarithms, in which searchers plan: every ratio that `Figures` has."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np

from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.searchers.effects import Array

NAMES = tuple(field.name for field in fields(Figures) if field.name.endswith("_ratio"))


def logs(figures: Figures) -> Array:
    """Logarithms `(len(NAMES),)`; not a number where a ratio is not known."""
    values = (getattr(figures, name) for name in NAMES)
    return np.array([math.nan if value is None else math.log(max(value, 1e-9)) for value in values])


def with_logs(figures: Figures, log_ratios: Array) -> Figures:
    """The figures with other ratios; None where one is not known."""
    found: dict[str, Any] = {
        name: None if math.isnan(value) else math.exp(value) for name, value in zip(NAMES, log_ratios, strict=True)
    }
    return replace(figures, **found)
