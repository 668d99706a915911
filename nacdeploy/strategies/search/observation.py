"""Observation: what a searcher sees of an evaluated chain; never a model."""

from dataclasses import dataclass

from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import Figures


@dataclass(frozen=True)
class Observation:
    """One evaluated chain. `figures` is None where the evaluation failed: then the score is minus infinity.

    `legal` holds the letters that may follow (none: the chain ends here). Equal `state_key`s are the same state.
    """

    chain: Chain
    figures: Figures | None
    score: float
    admissible: bool
    legal: tuple[str, ...]
    state_key: str
