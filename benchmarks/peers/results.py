"""The pure part of the comparison: rows, which candidate counts, the answers to the questions, Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nacdeploy.base.latency import Ratio

MAX_DROP = 1.0


@dataclass(frozen=True)
class Row:
    """One network as it was timed. Accuracies are fractions from the session that is timed; a candidate that was not
    chosen on validation has no test accuracy. `kind` is fp32, control, quantised, nacdeploy, pruned or dense."""

    name: str
    kind: str
    validation_accuracy: float
    test_accuracy: float | None
    n_bytes: int
    p50_ms: float
    speed: Ratio
    n_epochs: int = 0


@dataclass(frozen=True)
class Goal:
    """One question of the comparison: what was found, what was wanted, whether it is met."""

    question: str
    found: str
    met: bool


def within(row: Row, baseline: Row, max_drop: float = MAX_DROP) -> bool:
    """Whether a row loses at most `max_drop` points of the baseline's accuracy on validation."""
    return 100 * (baseline.validation_accuracy - row.validation_accuracy) <= max_drop + 1e-9


def fastest(rows: Sequence[Row], kind: str, baseline: Row, max_drop: float = MAX_DROP) -> Row | None:
    """The fastest row of a kind within the drop on validation; None where there is none."""
    candidates = [row for row in rows if row.kind == kind and within(row, baseline, max_drop)]
    return max(candidates, key=lambda row: row.speed.value, default=None)


def quotient(above: Ratio, below: Ratio) -> Ratio:
    """How many times faster one row is than another, with the widest interval that both intervals allow."""
    return Ratio(above.value / below.value, above.low / below.high, above.high / below.low)


def width_of_latency(ratios: Mapping[int, float]) -> int:
    """Of dense networks by width, timed against a network (more is faster): the widest of its latency, 5 % slower at
    most; where all are slower, the fastest."""
    return max((w for w, ratio in ratios.items() if ratio >= 0.95), default=max(ratios, key=lambda w: ratios[w]))


def text(ratio: Ratio) -> str:
    return f"{ratio.value:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def markdown(rows: Sequence[Row], baseline: Row) -> str:
    """The table of the rows that were scored on the test split."""
    lines = ["| network | test accuracy % | drop, points | kB | p50 ms | faster (95 %) | epochs |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        if row.test_accuracy is not None and baseline.test_accuracy is not None:
            drop = 100 * (baseline.test_accuracy - row.test_accuracy)
            cells = [row.name, f"{100 * row.test_accuracy:.2f}", f"{drop:.2f}", f"{row.n_bytes / 1000:.0f}"]
            cells += [f"{row.p50_ms:.3f}", text(row.speed), str(row.n_epochs)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sweep(rows: Sequence[Row], baseline: Row) -> str:
    """The table of the candidates that validation chose from."""
    lines = ["| candidate | validation accuracy % | drop, points | faster (95 %) | within |", "|---|---|---|---|---|"]
    for row in (r for r in rows if r.kind in ("nacdeploy", "pruned")):
        drop = 100 * (baseline.validation_accuracy - row.validation_accuracy)
        cells = [row.name, f"{100 * row.validation_accuracy:.2f}", f"{drop:.2f}", text(row.speed)]
        lines.append(f"| {' | '.join([*cells, 'yes' if within(row, baseline) else 'no'])} |")
    return "\n".join(lines)


def goals(rows: Sequence[Row], baseline: Row, chosen: Row, ptq: Row) -> list[Goal]:
    """The questions of the comparison; `chosen` is nacdeploy's chain, `ptq` its chain Q."""
    found = [
        _accuracy_goal(baseline),
        _drop_goal(chosen, baseline),
        _speed_goal("FP32 ONNX Runtime", chosen, baseline, 7),
    ]
    peer, pruned = fastest(rows, "quantised", baseline), fastest(rows, "pruned", baseline)
    found.append(_speed_goal("the fastest peer that only quantises", chosen, peer, 2))
    found.append(_speed_goal("torch-pruning alone, best ratio", chosen, pruned, 1.4))
    found += [_above(chosen, row) for row in rows if row.kind == "dense" and row.test_accuracy is not None]
    drop = _points(baseline, ptq)
    found.append(Goal(f"{ptq.name} at most 0.3 points below FP32", f"{drop:.2f} points", drop <= 0.3 + 1e-9))
    for row in (r for r in rows if r.kind == "quantised" and "OpenVINO" not in r.name):
        gap = _points(row, ptq)
        found.append(Goal(f"{ptq.name} at most 0.2 points below {row.name}", f"{gap:.2f} points", gap <= 0.2 + 1e-9))
    return found


def _points(above: Row, below: Row) -> float:
    return 100 * ((above.test_accuracy or 0.0) - (below.test_accuracy or 0.0))


def _accuracy_goal(baseline: Row) -> Goal:
    accuracy = 100 * (baseline.test_accuracy or 0.0)
    return Goal("the FP32 baseline has at least 91 %", f"{accuracy:.2f} %", accuracy >= 91)


def _drop_goal(chosen: Row, baseline: Row) -> Goal:
    drop = _points(baseline, chosen)
    return Goal(f"{chosen.name} at most {MAX_DROP:g} point below FP32", f"{drop:.2f} points", drop <= MAX_DROP + 1e-9)


def _speed_goal(whom: str, chosen: Row, other: Row | None, wanted: float) -> Goal:
    question = f"{chosen.name} at least {wanted:g}x faster than {whom}"
    if other is None:
        return Goal(question, "none of them is within the drop", True)
    ratio = quotient(chosen.speed, other.speed)
    named = question if other.kind == "fp32" else f"{question} ({other.name})"
    return Goal(named, text(ratio), ratio.value >= wanted)


def _above(chosen: Row, other: Row) -> Goal:
    gap = _points(chosen, other)
    return Goal(f"{chosen.name} more accurate than {other.name}", f"{gap:+.2f} points", gap > 0)


def goal_table(found: Sequence[Goal]) -> str:
    lines = ["| wanted | found | met |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {g.question} | {g.found} | {'yes' if g.met else '**no**'} |" for g in found)])
