"""The pictures of a report: charts with a title and a sentence, in its page, in notebooks and as files."""

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.reports.charts import figure as drawing
from nacdeploy.reports.charts.chart import Chart


@dataclass(frozen=True)
class Panel:
    """One picture: a file name, a title, a sentence on how to read it, and its charts, the first one on top."""

    name: str
    title: str
    caption: str
    charts: tuple[Chart, ...]

    @cached_property
    def figure(self) -> Any:
        """The matplotlib figure."""
        return drawing.figure_of(self.charts)

    def data_uri(self) -> str:
        """Return the picture as an SVG image that an HTML text holds in itself."""
        from matplotlib import rc_context

        content = io.BytesIO()
        with rc_context({"svg.hashsalt": self.name}):  # else every file has ids of its own
            self.figure.savefig(content, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()

    def write_png(self, folder: Path) -> Path:
        """Write the picture as `<name>.png`, whole or not at all."""
        path, drawn = folder / f"{self.name}.png", io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=120)
        records.write_bytes(path, [drawn.getvalue()])
        return path


@dataclass(frozen=True)
class Pictures:
    """Several pictures, which a notebook shows below each other."""

    panels: tuple[Panel, ...]

    @property
    def figures(self) -> tuple[Any, ...]:
        """The matplotlib figures, to be changed or saved in any format."""
        return tuple(panel.figure for panel in self.panels)

    def save(self, folder: Path | str) -> list[Path]:
        """Write each picture as a PNG file into an existing folder."""
        return [panel.write_png(Path(folder)) for panel in self.panels]

    def _repr_html_(self) -> str:
        shown = (f'<h4>{escape(p.title)}</h4><img src="{p.data_uri()}"><p>{escape(p.caption)}</p>' for p in self.panels)
        return "".join(shown)
