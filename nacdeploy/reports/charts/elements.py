"""The parts that pictures are made of: texts, lines, and groups that say their value."""

from collections.abc import Sequence

from nacdeploy.base.html import tag

WIDTH = 420.0
LETTER_WIDTH = 7.0  # of a text of 12 units, about


def root(height: float, title: str, parts: Sequence[str]) -> str:
    """Return the picture of the page's width."""
    box = f"0 0 {WIDTH:g} {height:g}"
    return tag("svg", raw="".join(parts), viewBox=box, role="group", aria_label=title, klass="chart")


def line(x1: float, y1: float, x2: float, y2: float, klass: str) -> str:
    """Return a straight line."""
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", klass=klass)


def words(x: float, y: float, text: str, anchor: str, **more: str) -> str:
    """Return a text; nothing for an empty one."""
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **more) if text else ""


def valued(tip: str, klass: str, content: str) -> str:
    """Return a group that says its value; one without a value is part of the picture alone."""
    if not tip:
        return tag("g", raw=content, klass=klass)
    return tag("g", raw=tag("title", tip) + content, klass=klass, role="img", aria_label=tip, data_tip=tip)


def beginning(text: str, n: int) -> str:
    """Return a text of at most `n` letters, of a long one its beginning."""
    return text if len(text) <= n else f"{text[: n - 1]}…" if n > 1 else ""


def ending(text: str, n: int) -> str:
    """Return a text of at most `n` letters, of a long one its end, which tells layers of one network apart."""
    return text if len(text) <= n else f"…{text[len(text) - n + 1 :]}" if n > 1 else ""
