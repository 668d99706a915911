"""The picture of what a chain did to layers."""

from collections.abc import Sequence

from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Colour, Row
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.layers import LayerChange

_PRECISIONS: dict[int, Colour] = {32: "blue", 8: "green", 4: "purple"}


def layers_panel(changes: Sequence[LayerChange]) -> Panel:
    """Return every layer that multiplies, before and after."""
    caption = "Grey: the baseline. Coloured: what is left, by the width of its weights, with channels in -> out."
    widths = {change.weight_bits for change in changes}
    legend = tuple((f"{bits}-bit weights", colour) for bits, colour in _PRECISIONS.items() if bits in widths)
    chart = Bars(Axis("million MACs for one image"), tuple(map(_row, changes)), (("baseline", "grey"), *legend))
    return Panel("layers", "Layer by layer", caption, (chart,))


def _row(change: LayerChange) -> Row:
    before, after = change.macs_before / 1e6, change.macs_after / 1e6
    tip = f"{change.layer}\nbefore: {before:.4g} million MACs\nnow: {after:.4g} million MACs\n{change.what}"
    colour = _PRECISIONS.get(change.weight_bits, "pink")
    return Row(change.layer, (Bar(before, "grey", tip), Bar(after, colour, tip, is_thin=True)), change.what)
