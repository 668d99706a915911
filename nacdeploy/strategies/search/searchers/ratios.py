"""The ratios of figures as a vector of logarithms, in which searchers plan: every ratio that `Figures` has."""

import math
from dataclasses import fields
from typing import Any

import numpy as np

from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.searchers.effects import Array

NAMES = tuple(field.name for field in fields(Figures) if field.name.endswith("_ratio"))


def logs(figures: Figures) -> Array:
    """Return logarithms `(len(NAMES),)`; NaN for an unknown ratio."""
    values = (getattr(figures, name) for name in NAMES)
    return np.array([math.nan if value is None else math.log(max(value, 1e-9)) for value in values])


def with_logs(figures: Figures, log_ratios: Array, quality: float | None = None) -> Figures:
    """Return the figures with other ratios, and with the score of another quality; None for an unknown ratio."""
    found: dict[str, Any] = {
        name: None if math.isnan(value) else math.exp(value)
        for name, value in zip(NAMES, log_ratios.tolist(), strict=True)
    }
    if quality is not None:
        found["score"] = figures.scored_by.of_quality(quality, figures.chance_score)
    return Figures(**(vars(figures) | found))  # a plan makes thousands; `replace` takes twice as long
