"""The report as one HTML file that needs nothing else: no network, no library, readable at the width of a phone.

One script of its own sorts tables and shows the values of marks; the page says by hash that no other may run.
"""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.reports.charts import svg
from nacdeploy.reports.figures import Panel

_TEMPLATES = "nacdeploy.reports"


@dataclass(frozen=True)
class Value:
    """A cell that is sorted by its number, whatever its text; one without a number stands last."""

    text: str
    number: float | None = None

    @property
    def key(self) -> float | None:
        """Return the key that a page sorts by: the number, if it is one."""
        return self.number if self.number is not None and math.isfinite(self.number) else None

    def __str__(self) -> str:
        return self.text


Cell = str | Value


@dataclass(frozen=True)
class Cells:
    """A table that a reader can sort; a folded one opens on a tap. `marked` are the rows that stand out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False
    caption: str = ""
    marked: frozenset[int] = frozenset()

    @property
    def filled(self) -> "Cells":
        """The table without columns in which nothing stands; one without rows keeps all."""
        if not self.rows:
            return self
        kept = [at for at in range(len(self.columns)) if any(str(row[at]) for row in self.rows)]
        rows = tuple(tuple(row[at] for at in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[at] for at in kept), rows=rows)

    def is_of_words(self, column: int) -> bool:
        """Tell whether a column holds texts, which stand on its left."""
        return all(isinstance(row[column], str) for row in self.rows)


@dataclass(frozen=True)
class Tile:
    """One figure that a reader looks for first, and what it is measured against."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page, which its contents name: a few facts, pictures, tables."""

    name: str
    title: str
    lead: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    panels: Sequence[Panel] = ()
    tables: Sequence[Cells] = ()


@dataclass(frozen=True)
class Page:
    """The content of a report, from top to bottom."""

    title: str
    lead: str
    sections: Sequence[Section]
    tiles: Sequence[Tile] = ()

    @property
    def panels(self) -> list[Panel]:
        """The pictures of all sections."""
        return [panel for section in self.sections for panel in section.panels]


def write_page(path: Path, page: Page) -> Path:
    """Write the page, whole or not at all. Every text is escaped.

    Raises:
        NacdeployError: the file cannot be written.
    """
    style, script = _text("report.css"), _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _template().render(page=page, style=style, script=script, digest=digest, draw=_drawn, legend=svg.legend)
    records.write_text(path, text)
    return path


def _drawn(panel: Panel, at: int) -> Any:
    """Return one chart of a panel as an element that is escaped already."""
    from markupsafe import Markup

    return Markup(svg.svg(panel.charts[at], panel.title))


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")


def _text(name: str) -> str:
    return (resources.files(_TEMPLATES) / "templates" / name).read_text(encoding="utf-8")
