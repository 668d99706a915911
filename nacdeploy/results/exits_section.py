"""The exits of an artifact on the page of a run: who leaves where, expected and measured time, the curve."""

from collections.abc import Sequence
from dataclasses import dataclass

from nacdeploy.cascades.cascade import NEVER
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.artifacts.cascade_files import CascadeFiles
from nacdeploy.exporters.bench import Row
from nacdeploy.exporters.exits.curve import Curve, Setting
from nacdeploy.metrics import Metric, shown, shown_drop
from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Colour, Mark, Plane, Series
from nacdeploy.reports.charts.chart import Row as BarRow
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.page import Cell, Cells, Section, Value

_OWN = "the network's own end"


@dataclass(frozen=True)
class Exits:
    """The exits of an artifact: its manifest, the curve of its thresholds, and what a bench measured of it."""

    manifest: Manifest
    curve: Curve | None
    rows: tuple[Row, ...]

    @property
    def timed(self) -> Row | None:
        """The measured row that an expectation stands beside: one image at a time."""
        return next((row for row in self.rows if row.expected_ms is not None), None)

    @property
    def on_test(self) -> tuple[float, ...]:
        """The share of test images that each exit answered; none without a bench of as many exits."""
        n_ways = len(self.manifest.gate.exits) + 1 if self.manifest.gate else 0
        found = next((row.exit_fractions for row in self.rows if row.exit_fractions), ())
        return found if len(found) == n_ways else ()

    @property
    def setting(self) -> Setting | None:
        """The setting of the curve that is in force; None if thresholds were given by hand."""
        gate, curve = self.manifest.gate, self.curve
        settings = curve.settings if curve is not None and gate is not None else ()
        return next((each for each in settings if gate and each.thresholds == gate.thresholds), None)


def exits_section(found: Exits) -> list[Section]:
    """Return the section of exits; none without any."""
    if found.manifest.gate is None or not found.manifest.gate.exits:
        return []
    cascade = found.manifest.cascade
    if cascade is None or cascade.form == "whole":
        lead = "They are outputs of one graph, which always runs whole: no time is saved by them."
    else:
        lead = "Expected times are the shares of images that leave by each way out, times what that way takes."
    panels = [*_shares(found), *_curve(found)]
    return [Section("exits", "Exits", lead, _facts(found, cascade), panels, [_ways(found, cascade)])]


def _facts(found: Exits, cascade: CascadeFiles | None) -> tuple[tuple[str, str], ...]:
    facts = [("gate", found.manifest.gate.rule)] if found.manifest.gate else []
    if cascade is not None:
        facts += [
            ("form", f"{cascade.form} ({cascade.timed_in or 'not timed'})"),
            ("expected at batch 1, on validation", _ms(cascade.expected_ms)),
            ("all outputs in one graph", _ms(cascade.whole_ms)),
        ]
        facts += [] if cascade.drop is None else [("lost by them", shown_drop(found.manifest.metric, cascade.drop))]
    return (*facts, *_measured(found.timed))


def _measured(row: Row | None) -> list[tuple[str, str]]:
    """Return expected and measured mean time over test images, and how far they are apart."""
    if row is None or row.expected_ms is None:
        return []
    by = f" ({100 * (row.latency.mean_ms / row.expected_ms - 1):+.0f} %)" if row.expected_ms > 0 else ""
    return [
        ("expected at batch 1, on test", _ms(row.expected_ms)),
        ("measured mean, test images in shuffled order", f"{_ms(row.latency.mean_ms)}{by}"),
        ("speed against FP32", str(row.speed)),
    ]


def _ms(time: float | None) -> str:
    return "not timed" if time is None else f"{time:.4g} ms"


def _ways(found: Exits, cascade: CascadeFiles | None) -> Cells:
    """Return the table of the ways out, the network's own end last."""
    exits = found.manifest.gate.exits if found.manifest.gate else ()
    names = [*((each.place, each.threshold) for each in exits), (_OWN, None)]
    fractions, times = (cascade.fractions, cascade.ways_ms) if cascade is not None else ((), ())
    rows: list[tuple[Cell, ...]] = [
        (
            Value(str(at + 1), at + 1),
            place,
            _threshold(threshold),
            _share(fractions, at),
            _share(found.on_test, at),
            Value(f"{times[at]:.4g}", times[at]) if at < len(times) else Value(""),
        )
        for at, (place, threshold) in enumerate(names)
    ]
    columns = ("exit", "behind", "threshold", "of validation images %", "of test images %", "ms by this way")
    return Cells("Ways out", columns, tuple(rows)).filled


def _threshold(value: float | None) -> Value:
    if value is None:
        return Value("")
    return Value("never", value) if value >= NEVER else Value(f"{value:.4g}", value)


def _share(fractions: Sequence[float], at: int) -> Value:
    return Value(f"{100 * fractions[at]:.1f}", fractions[at]) if at < len(fractions) else Value("")


def _shares(found: Exits) -> list[Panel]:
    """Return the picture of the shares of each way out; none where they are not known."""
    cascade, on_test = found.manifest.cascade, found.on_test
    expected = cascade.fractions if cascade is not None else ()
    if not expected and not on_test:
        return []
    exits = found.manifest.gate.exits if found.manifest.gate else ()
    names = [*(f"exit {at}, behind {each.place}" for at, each in enumerate(exits, start=1)), _OWN]
    rows = []
    for at, name in enumerate(names):
        kinds = (("validation", expected, False), ("test", on_test, True))
        known = [(where, shares[at], is_thin) for where, shares, is_thin in kinds if shares]
        words = [f"{100 * share:.1f} % of {where} images" for where, share, _ in known]
        tip = "\n".join([name, *words])
        bars = [Bar(100 * share, "blue" if is_thin else "grey", tip, is_thin=is_thin) for _, share, is_thin in known]
        rows.append(BarRow(name, tuple(bars), ", ".join(f"{100 * share:.0f} %" for _, share, _ in known)))
    colours: tuple[tuple[str, Colour, bool], ...] = (
        ("validation", "grey", bool(expected)),
        ("test", "blue", bool(on_test)),
    )
    legend = tuple((name, colour) for name, colour, is_there in colours if is_there)
    chart = Bars(Axis("% of images"), tuple(rows), legend)
    return [Panel("exit-shares", "Who leaves where", "The share of images that each way out answers.", (chart,))]


def _curve(found: Exits) -> list[Panel]:
    """Return score against expected time over thresholds, with the setting in force; nothing without a curve."""
    if found.curve is None:
        return []
    metric = found.manifest.metric
    marks = tuple(_mark(each, metric) for each in found.curve.settings)
    now = found.setting
    series = [Series("thresholds", "blue", marks, is_joined=True)]
    if now is not None:
        series.append(Series("in force", "red", (_mark(now, metric),), "ring"))
    cascade = found.manifest.cascade
    if cascade is not None and cascade.whole_ms is not None:
        own, whole_ms = found.curve.own_score, cascade.whole_ms
        tip = f"one graph, all images to its end\n{shown(metric, own)}, {_ms(whole_ms)}"
        series.append(Series("one graph", "purple", (Mark(whole_ms, metric.scale * own, tip),), "triangle"))
    if found.timed is not None:
        row = found.timed
        tip = f"measured on test\n{shown(metric, row.score)}, mean {_ms(row.latency.mean_ms)}"
        series.append(
            Series("measured, test", "green", (Mark(row.latency.mean_ms, metric.scale * row.score, tip),), "square")
        )
    caption = (
        f"Thresholds of which none is both faster and better, expected of {found.curve.n_images} validation images; "
        "'nacdeploy tune' moves along them."
    )
    plane = Plane(Axis("ms for one image"), Axis(f"{metric.title} {metric.unit}".rstrip()), tuple(series))
    return [Panel("exit-curve", "Score against time", caption, (plane,))]


def _mark(setting: Setting, metric: Metric) -> Mark:
    thresholds = ", ".join("never" if value >= NEVER else f"{value:.3g}" for value in setting.thresholds)
    shares = ", ".join(f"{100 * share:.0f} %" for share in setting.fractions)
    held_out = "" if setting.held_out is None else f"; {shown_drop(metric, setting.held_out)} held out"
    tip = (
        f"thresholds {thresholds}\n{shown(metric, setting.score)} ({shown_drop(metric, setting.drop)} lost{held_out})\n"
        f"{_ms(setting.expected_ms)} expected\nleave: {shares}"
    )
    return Mark(setting.expected_ms, metric.scale * setting.score, tip)
