"""The settings of each layer's decomposition: by the profile's table, or by a file that names layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable
from nacdeploy.surgery.low_rank import decomposition, ranks
from nacdeploy.surgery.low_rank.ranks import SVD, TUCKER2, Ranks

EVBMF, RATE, RATIO = "evbmf", "rate", "ratio"
AUTO = "auto"


@dataclass(frozen=True)
class LayerSetting:
    """The format of one layer and the source of its ranks; `ranks` by hand, one for each pass, go before the rest."""

    format: str
    selection: str = EVBMF
    ranks: tuple[Ranks, ...] = ()
    weaken: float = 0.8
    rate: float = 2.0
    ratio: float = 0.5
    min_rank: int | None = None


def of(table: DecomposeTable, layers: Mapping[str, nn.Module]) -> dict[str, LayerSetting]:
    """Return the settings of all layers by a table.

    Raises:
        UsageError: with every name that is no layer, and all ranks that do not fit theirs.
    """
    shapes = {name: decomposition.shape_of(layer) for name, layer in layers.items()}
    settings = {name: _by_table(table, name, shape) for name, shape in shapes.items()}
    problems = [problem for name in table.ranks for problem in _problems(table, name, shapes)]
    if problems:
        raise UsageError("decompose.ranks: " + "; ".join(problems))
    return settings


def own_format(shape: tuple[int, ...]) -> str:
    """Return the format that suits a weight: `svd` without a kernel, else `tucker2`."""
    return SVD if all(size == 1 for size in shape[2:]) else TUCKER2


def passes(given: Iterable[int | Iterable[int]], format: str) -> tuple[Ranks, ...]:
    """Return ranks by hand as one tuple for each pass: a plain list is one pass of several ranks, or several of one."""
    entries = [*given]
    if all(isinstance(entry, int) for entry in entries):
        whole: Ranks = tuple(entry for entry in entries if isinstance(entry, int))
        return (whole,) if format == TUCKER2 else tuple((rank,) for rank in whole)
    return tuple((entry,) if isinstance(entry, int) else tuple(entry) for entry in entries)


def rank_problems(name: str, by_hand: Iterable[Ranks], shape: tuple[int, ...], format: str) -> list[str]:
    """Describe what is wrong with ranks by hand: their number, or a rank outside 1 and the mode."""
    limits = ranks.modes(shape, format)
    wanted = f"{format} of {name} takes {len(limits)} of at most {' and '.join(map(str, limits))}"
    return [
        f"ranks {list(each)} do not fit: {wanted}"
        for each in by_hand
        if len(each) != len(limits) or any(not 1 <= r <= limit for r, limit in zip(each, limits, strict=True))
    ]


def _by_table(table: DecomposeTable, name: str, shape: tuple[int, ...]) -> LayerSetting:
    format = own_format(shape) if table.method == AUTO else table.method
    by_hand = passes(table.ranks[name], format) if name in table.ranks else ()
    return LayerSetting(format, table.rank, by_hand, table.weaken, table.rate, table.ratio, table.min_rank)


def _problems(table: DecomposeTable, name: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    if name not in shapes:
        return [f"no layer is named '{name}'{nearest(name, shapes)}"]
    setting = _by_table(table, name, shapes[name])
    return rank_problems(name, setting.ranks, shapes[name], setting.format)
