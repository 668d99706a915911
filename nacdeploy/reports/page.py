"""The report as one HTML file that needs nothing else: no network, no script, readable at the width of a phone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.reports.figures import Panel


@dataclass(frozen=True)
class Cells:
    """A table of texts; a folded one opens on a tap."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """The content of a report, from top to bottom."""

    title: str
    lead: str
    summary: Cells
    panels: Sequence[Panel]
    tables: Sequence[Cells] = ()


def write_page(path: Path, page: Page) -> Path:
    """Write the page, whole or not at all. Every text is escaped.

    Raises:
        NacdeployError: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nacdeploy.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    records.write_text(path, environment.get_template("report.html").render(page=page))
    return path
