"""The report of what is there: per network and speed a row of each method, its seeds side by side, how far nacdeploy is
above it on the same images, and what is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.honest import answers, methods
from benchmarks.honest.answers import Found, Times
from benchmarks.honest.bench import Bench
from benchmarks.honest.cells import Cell, MissingError
from benchmarks.honest.methods import METHODS, OTHER, Method, Variation
from benchmarks.honest.plans import Plan
from nacdeploy.base.errors import NacdeployError

OURS = "nacdeploy, P by time, Fisher"
ANSWER = "what `search` answers: the best of its own on validation"


@dataclass
class Report:
    """The lines of one network, and the cells that were not there."""

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def tried(self, what: str, make: Callable[[], Sequence[Variation]]) -> Sequence[Variation]:
        """The variations of a row as far as they are there; what is missing is noted."""
        try:
            return make()
        except (MissingError, NacdeployError) as error:
            self.missing.append(f"{what}: {error}")
            return ()


def of_plan(plan: Plan, seeds: Sequence[int], bench_of: Callable[[int], Bench], fresh: bool) -> Report:
    """The report of a network; `fresh` times everything anew."""
    report = Report([f"## {plan.name}"])
    measured, rows = {}, {}
    for seed in seeds:
        wanted = [speedup for speedup, its in plan.speedups.items() if seed in its]
        gathered = _gathered(bench_of(seed), wanted, report)
        if gathered is not None:
            measured[seed], rows[seed] = _timed(bench_of(seed), gathered, fresh), gathered
    for seed, now in measured.items():
        report.lines += _baselines(bench_of(seed), now, rows[seed][("", 0.0)])
    for speedup, its in plan.speedups.items():
        report.lines += _at(speedup, {s: (bench_of(s), rows[s], measured[s]) for s in its if s in rows})
    return report


_Rows = Mapping[tuple[str, float], Sequence[Variation]]


def _gathered(bench: Bench, speedups: Sequence[float], report: Report) -> _Rows | None:
    """The variations of a seed by method and speed, INT8 alone under no name; None without a baseline."""
    where = f"{bench.plan.name}, seed {bench.seed}"
    try:
        methods.baseline(bench)
    except (MissingError, NacdeployError) as error:
        report.missing.append(f"{where}, everything: {error}")
        return None
    rows = {("", 0.0): report.tried(f"{where}, INT8 alone", lambda: list(methods.untrained(bench)))}
    for speedup in speedups:
        for method in METHODS:
            what = f"{where}, {speedup:g}x, {method.name}"
            rows[method.name, speedup] = report.tried(what, _lister(method, bench, speedup))
    return rows


def _lister(method: Method, bench: Bench, speedup: float) -> Callable[[], Sequence[Variation]]:
    return lambda: list(method.variations(bench, speedup))


def _timed(bench: Bench, rows: _Rows, fresh: bool) -> Times:
    cells: list[Cell] = [*methods.rounds(bench)]
    cells += [cell for variations in rows.values() for each in variations for cell in each.cells]
    return answers.times(bench, methods.baseline(bench), cells, fresh)


def _baselines(bench: Bench, measured: Times, int8: Sequence[Variation]) -> Iterator[str]:
    """The FP32 network round by round, and in INT8 and no more."""
    yield f"\nseed {bench.seed}: {measured.machine}; FP32 {measured.baseline_ms:.4f} ms, 1 thread, batch 1"
    yield "\n| network | epochs | validation % | test % | ms | faster (95 %) |\n|---|---|---|---|---|---|"
    best = methods.baseline(bench)
    for cell in methods.rounds(bench):
        name = "**FP32, compressed and teaching**" if cell == best else "FP32"
        yield _row(name, cell, bench, measured)
    for each in int8:
        (cell,) = each.cells
        yield f"| {each.name} | fails: {cell.error} |" if cell.error else _row(each.name, cell, bench, measured)


def _row(name: str, cell: Cell, bench: Bench, measured: Times) -> str:
    test = f"{100 * answers.right(bench, cell).mean():.2f}"
    cells = [name, str(cell.n_epochs), f"{100 * cell.validation:.2f}", test, f"{measured.call_ms[cell.key]:.4f}"]
    return f"| {' | '.join([*cells, str(measured.ratios[cell.key])])} |"


def _at(speedup: float, by_seed: Mapping[int, tuple[Bench, _Rows, Times]]) -> Iterator[str]:
    """The table of one speed."""
    found: dict[str, dict[int, Found]] = {}
    for seed, (bench, rows, measured) in by_seed.items():
        for method in METHODS:
            at = answers.found(bench, rows[method.name, speedup], speedup, measured)
            if at is not None:
                found.setdefault(method.name, {})[seed] = at
        names = [each.name for each in METHODS if each.may_answer(bench.plan) and seed in found.get(each.name, {})]
        own = [found[name][seed] for name in names]
        if own:
            found.setdefault(ANSWER, {})[seed] = max(own, key=lambda each: each.validation)
    yield f"\n### {speedup:g}x faster than FP32, seeds {', '.join(map(str, by_seed)) or 'none yet'}\n"
    yield f"| network | test %, median | by seed | {OURS} above it, points (95 %, paired) | epochs | picked |"
    yield "|---|---|---|---|---|---|"
    has_others = any(bench.plan.others for bench, _, _ in by_seed.values())
    for name in (*(each.name for each in METHODS if has_others or each.name != OTHER), ANSWER):
        yield _method_row(name, found.get(name, {}), found.get(OURS, {}))


def _method_row(name: str, found: Mapping[int, Found], ours: Mapping[int, Found]) -> str:
    if not found:
        return f"| {name} | - | not reached, or not there yet | | | |"
    tests = [f"{100 * each.test:.2f}" for each in found.values()]
    gaps = [_gap(ours[seed], each) for seed, each in found.items() if seed in ours and name != OURS]
    middle = f"{100 * median(each.test for each in found.values()):.2f}"
    picks = "; ".join(dict.fromkeys(f"{each.name}: {each.call_ms:.4f} ms, {each.ratio}" for each in found.values()))
    n_epochs = ", ".join(dict.fromkeys(str(each.n_epochs) for each in found.values()))
    return f"| {name} | {middle} | {', '.join(tests)} | {', '.join(gaps)} | {n_epochs} | {picks} |"


def _gap(ours: Found, theirs: Found) -> str:
    middle, low, high = answers.gap(ours.right, theirs.right)
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
