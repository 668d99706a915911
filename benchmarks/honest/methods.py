"""The rows of the table: who makes a network of a speed, by which candidates. What a row needs is trained here.

A variation is one way to the asked time: the network within it and, where widths or ratios come in steps, the one
beyond it, between which accuracy is read off. Each method offers some, and validation picks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.honest import making, shapes
from benchmarks.honest.bench import Bench
from benchmarks.honest.cells import ENVIRONMENTS, Cell, Made
from benchmarks.honest.plans import Family, Plan
from benchmarks.peers import quantisers
from benchmarks.peers.quantisers import Setting
from nacdeploy.base.errors import NacdeployError
from nacdeploy.latencies.clock import TableClock
from nacdeploy.trials.time_budget import networks_ms

HELPS = 0.002  # of accuracy on validation: a round of the baseline that gains less has stopped helping
MARGIN = 0.985  # of the time, as `search --target-ms` aims
OTHER = "another architecture: dense small + our `Q`"
WITHOUT, WITH = "dense small + our `Q`", "dense small + our `Q`, distilled"
DISTILLED = (0.0, making.TEACHING.weight)
HALFWAY = 0.75  # of the logarithm of the speed: where the first of two P's stops, of which Q's part is done by then


@dataclass(frozen=True)
class Variation:
    """One way to a time: the network within it, then the one beyond it, if there is one."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Method:
    """A row of the table, by whom: "nacdeploy", "dense" (which `search` may weigh too), "chain" (ours, but not one that
    `search` tries by itself) or "peer"."""

    name: str
    variations: Callable[[Bench, float], Iterator[Variation]]
    by: str = "peer"

    def may_answer(self, plan: Plan) -> bool:
        """Whether `search` could answer with it."""
        return self.by == "nacdeploy" or (self.by == "dense" and plan.weighs_dense)


def rounds(bench: Bench) -> tuple[Cell, ...]:
    """The baseline round by round, until another one stops helping."""
    found = [bench.cells.get("baseline/1", partial(making.first_round, bench))]
    while len(found) < bench.plan.n_rounds:
        last = found[-1]
        make = partial(making.next_round, bench, bench.cells.folder(last.key), last.n_epochs)
        found.append(bench.cells.get(f"baseline/{len(found) + 1}", make))
        if found[-1].validation - last.validation < HELPS:
            break
    return tuple(found)


def baseline(bench: Bench) -> Cell:
    """The round that validation likes best: what is compressed, and who teaches."""
    found = [cell for cell in rounds(bench) if not cell.error]
    if not found:
        raise NacdeployError(f"{bench.plan.name} has no baseline: {rounds(bench)[0].error}")
    return max(found, key=lambda cell: cell.validation)


def total(bench: Bench) -> int:
    """The epochs of every compressed network: the baseline's and those of F."""
    return baseline(bench).n_epochs + bench.n_epochs


def _start(bench: Bench) -> Path:
    return bench.cells.folder(baseline(bench).key)


def untrained(bench: Bench, speedup: float = 1.0) -> Iterator[Variation]:
    """The baseline in INT8 and no more, by us and by the peers."""
    start, n_epochs = _start(bench), baseline(bench).n_epochs
    own = bench.cells.get("int8/nacdeploy", partial(making.chain, bench, start, "Q", n_epochs))
    yield Variation("nacdeploy `Q`", (own,))
    for setting in (*quantisers.STATIC[:3], *quantisers.NNCF):
        make = partial(_by_peer, bench, start / making.FP32, setting, n_epochs)
        yield Variation(setting.name, (bench.cells.get(f"int8/{setting.name}", make),))


def _by_peer(bench: Bench, model: Path, setting: Setting, n_epochs: int, folder: Path) -> Made:
    found = quantisers.quantised((setting,), model, bench.images("calibration").path, folder, ENVIRONMENTS)
    if not found:
        raise NacdeployError(f"{setting.name} fails: the log in {ENVIRONMENTS} says why")
    return Made(found[0].path.name, n_epochs, setting.runtime, setting.environment)


def dense(bench: Bench, speedup: float) -> Iterator[Variation]:
    """Each family of dense networks, at the learning rate that validation likes."""
    return _of_families(bench, bench.plan.families, speedup)


def others(bench: Bench, speedup: float) -> Iterator[Variation]:
    """The same of another architecture."""
    return _of_families(bench, bench.plan.others, speedup)


def _of_families(bench: Bench, families: Sequence[Family], speedup: float) -> Iterator[Variation]:
    for family in families:
        if widths := _widths(bench, family, speedup):
            rate = _rate(bench, family)
            cells = tuple(_dense(bench, family, width, rate) for width in widths)
            yield Variation(f"{family.model}, widths {_listed(widths)}, rate {rate:g}", cells)


def distilled(bench: Bench, speedup: float) -> Iterator[Variation]:
    """The better family again, taught by the baseline."""
    speeds, found = shapes.speeds(bench), {}
    for family, each in zip(_reaching(bench, speedup), dense(bench, speedup), strict=True):
        widths = _widths(bench, family, speedup)
        sides = [speeds[shapes.dense_label(family.model, width)] for width in widths]
        found[family.model] = (expected(each, sides, speedup), family, widths)
    if found:
        _, family, widths = max(found.values(), key=lambda each: each[0])
        rate = _rate(bench, family)
        cells = tuple(_dense(bench, family, width, rate, taught=True) for width in widths)
        yield Variation(f"{family.model}, widths {_listed(widths)}, rate {rate:g}", cells)


def expected(variation: Variation, sides: list[float], speedup: float) -> float:
    """The accuracy on validation at a speed, between networks of the speeds `sides`; 0 where one could not be made."""
    if any(cell.error for cell in variation.cells):
        return 0.0
    near = shapes.share(speedup, sides[0], sides[-1])
    return near * variation.cells[0].validation + (1 - near) * variation.cells[-1].validation


def _reaching(bench: Bench, speedup: float) -> list[Family]:
    return [family for family in bench.plan.families if _widths(bench, family, speedup)]


def _widths(bench: Bench, family: Family, speedup: float) -> tuple[float, ...]:
    speeds = shapes.speeds(bench)
    return shapes.around({w: speeds[shapes.dense_label(family.model, w)] for w in family.widths}, speedup)


def _rate(bench: Bench, family: Family) -> float:
    """The best learning rate on validation: the first seed of the plan chooses for all, at its first speed."""
    first = bench.first_seed()
    width = next(widths[0] for speedup in bench.plan.speedups if (widths := _widths(bench, family, speedup)))
    cells = {rate: _dense(first, family, width, rate) for rate in family.rates}
    return max(cells, key=lambda rate: cells[rate].validation)


def _dense(bench: Bench, family: Family, width: float, rate: float, taught: bool = False) -> Cell:
    tables = {"train": {**family.recipe, "learning_rate": rate}}
    task, profile = bench.dense(family.model, width, tables)
    teacher = _start(bench) if taught else None
    make = partial(making.dense, bench, task, profile, total(bench), teacher)
    kind = f"distilled at {making.TEACHING.temperature:g}" if taught else "dense"
    return bench.cells.get(f"{kind}/{family.model}-{width:g}/rate-{rate:g}", make)


def by_torch_pruning(settings: tuple[Setting, ...]) -> Callable[[Bench, float], Iterator[Variation]]:
    """torch-pruning, F's recipe, and a peer's quantiser in some settings; the first one's times choose the ratios."""

    def variations(bench: Bench, speedup: float) -> Iterator[Variation]:
        speeds = shapes.speeds(bench)
        labels = {ratio: shapes.pruned_label(settings[0], ratio) for ratio in bench.plan.ratios}
        by_share = {1 - r: speeds[label] for r, label in labels.items() if label in speeds}
        ratios = tuple(round(1 - share, 4) for share in shapes.around(by_share, speedup))
        for setting in settings if ratios else ():
            cells = tuple(_pruned(bench, ratio, setting) for ratio in ratios)
            yield Variation(f"{setting.name}, ratios {_listed(ratios)}", cells)

    return variations


def _pruned(bench: Bench, ratio: float, setting: Setting) -> Cell:
    key, start = f"torch-pruning/{ratio:g}", _start(bench)
    plain = bench.cells.get(key, partial(making.torch_pruned, bench, start, ratio, total(bench)))
    if plain.error:
        return replace(plain, key=f"{key}/{setting.name}")
    make = partial(_by_peer, bench, bench.cells.root / plain.path, setting, total(bench))
    return bench.cells.get(f"{key}/{setting.name}", make)


def by_time(prune: Mapping[str, str]) -> Callable[[Bench, float], Iterator[Variation]]:
    """Our P to the time, Q and F, by labels and with the baseline as teacher; `prune` are parameters of P."""

    letter = ",".join(f"{key}={value}" for key, value in prune.items())

    def word(bench: Bench, speedup: float, weight: float) -> str:
        return f"P(time=1/{speedup:g},{letter})QF(epochs={bench.n_epochs},{_teaching(weight)})"

    return partial(_by_weight, word, lambda speedup: (speedup,))


def in_steps() -> Callable[[Bench, float], Iterator[Variation]]:
    """Two P's by time, each with its part of the epochs: a third behind the first."""

    def speedups(speedup: float) -> tuple[float, ...]:
        return float(f"{speedup**HALFWAY:.3g}"), speedup

    def word(bench: Bench, speedup: float, weight: float) -> str:
        halfway, whole = speedups(speedup)
        first = bench.n_epochs // 3
        return "".join(
            f"P(time=1/{faster:g},importance=fisher){letters}F(epochs={n},{_teaching(weight)})"
            for faster, letters, n in ((halfway, "", first), (whole, "Q", bench.n_epochs - first))
        )

    return partial(_by_weight, word, speedups)


def _teaching(weight: float) -> str:
    return f"distill={weight},distill_temperature={making.TEACHING.temperature:g}" if weight else "distill=0"


_Word = Callable[[Bench, float, float], str]


def _by_weight(
    word: _Word, speedups: Callable[[float], tuple[float, ...]], bench: Bench, speedup: float
) -> Iterator[Variation]:
    """A chain by labels and with the baseline as teacher; other seeds than the first make the one that it chose."""

    def cell(of: Bench, weight: float) -> Cell:
        asked = word(of, speedup, weight)
        return of.cells.get(asked, partial(_within, of, asked, speedups(speedup)))

    weights, first = DISTILLED, bench.first_seed()
    if first is not bench:
        weights = (max(weights, key=lambda weight: cell(first, weight).validation),)
    for weight in weights:
        yield Variation(f"`{word(bench, speedup, weight)}`", (cell(bench, weight),))


def _within(bench: Bench, word: str, speedups: Sequence[float], folder: Path) -> Made:
    """A chain whose P's leave shares of the baseline's FP32 time."""
    start = _start(bench)
    network = making.loaded(start)
    assert isinstance(bench.task.clock, TableClock)
    (base_ms,), exact = networks_ms(bench.task.clock, [network]), word
    for speedup in speedups:
        exact = exact.replace(f"time=1/{speedup:g},", f"target_ms={MARGIN * base_ms / speedup:.6g},")
    return making.chain(bench, start, exact, total(bench), folder)


def _listed(values: tuple[float, ...]) -> str:
    return " and ".join(f"{value:g}" for value in sorted(values))


METHODS = (
    Method(WITHOUT, dense, "dense"),
    Method("nacdeploy, P by time, Fisher", by_time({"importance": "fisher"}), "nacdeploy"),
    Method("nacdeploy, P by time, uniform", by_time({"scope": "uniform"}), "nacdeploy"),
    Method("nacdeploy, P by time in two steps, Fisher", in_steps(), "chain"),
    Method("torch-pruning + `quantize_static`", by_torch_pruning(quantisers.STATIC[:3])),
    Method("torch-pruning + NNCF (OpenVINO)", by_torch_pruning(quantisers.NNCF)),
    Method(WITH, distilled, "dense"),
    Method(OTHER, others),
)
