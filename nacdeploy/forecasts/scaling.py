"""A chain with more or less inside its letters: one factor for the share of every P and S.

What a letter leaves of a time or of a rank is a share too; it is raised to the factor.
"""

from dataclasses import replace

from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link, Value
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.operators.sparsify.settings import SparsifyTable

MOST = 0.95  # of the channels or weights of a network
_LEAST = 0.001


def scaled(chain: Chain, factor: float, profile: Profile) -> Chain:
    """Return a chain whose letters take so many times as much; letters without a share of their own stay.

    >>> from nacdeploy.profile import load
    >>> str(scaled(Chain.parse("P(ratio=0.5)QP(time=0.64)F"), 0.5, load("demo")))
    'P(ratio=0.25)QP(time=0.8)F'
    """
    return Chain(tuple(_scaled(link, factor, profile) for link in chain))


def can_scale(chain: Chain, profile: Profile) -> bool:
    """Tell whether any letter has a share."""
    return scaled(chain, 0.5, profile) != chain


def _scaled(link: Link, factor: float, profile: Profile) -> Link:
    found = _share(link, profile)
    if found is None or factor == 1.0:
        return link
    key, share, is_left = found
    now = share**factor if is_left else share * factor
    parameters = {**dict(link.parameters), key: float(f"{min(MOST, max(_LEAST, now)):.3g}")}
    return replace(link, parameters=tuple(parameters.items()))


def _share(link: Link, profile: Profile) -> tuple[str, float, bool] | None:
    """Return the parameter of a letter that says how much it takes, its value, and whether it says what is left."""
    own = dict(link.parameters)
    if link.letter == "P":
        return _of_prune(own, profile.of(PruneTable))
    if link.letter == "S":
        table = profile.of(SparsifyTable)
        ratio = own.get("ratio", table.ratio)
        is_free = not table.ratios and own.get("pattern", table.pattern) != "2:4"
        return ("ratio", float(ratio), False) if is_free and isinstance(ratio, int | float) else None
    if link.letter == "D":
        ranks = profile.of(DecomposeTable)
        is_by_ratio = own.get("rank", ranks.rank) == "ratio" and not (ranks.ranks or ranks.config)
        return ("ratio", float(own.get("ratio", ranks.ratio)), True) if is_by_ratio else None
    return None


def _of_prune(own: dict[str, Value], table: PruneTable) -> tuple[str, float, bool] | None:
    if "target_ms" in own or (not own.keys() & {"ratio", "time"} and table.target_ms is not None):
        return None
    if "time" in own or ("ratio" not in own and table.time is not None):
        return "time", float(own.get("time", table.time or 1.0)), True
    return None if table.ratios else ("ratio", float(own.get("ratio", table.ratio)), False)
