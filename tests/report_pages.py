"""A report's page as the tests read it: facts and tables by section, and what its marks say."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Section:
    """A part of a page. A cell of a table is what it is sorted by: its number, else its text."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[list[dict[str, str | float]]] = field(default_factory=list)
    tips: list[str] = field(default_factory=list)
    text: str = ""

    def fact(self, name: str) -> str:
        (found,) = [text for key, text in self.facts if key == name]
        return found

    @property
    def first(self) -> list[dict[str, str | float]]:
        return self.tables[0]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, Section] = {"": Section()}
        self.now = self.sections[""]
        self.text: list[str] = []
        self.heads: list[str] = []
        self.cells: list[str | float] = []
        self.number: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "section":
            self.now = self.sections[(given["id"] or "").removeprefix("section-")] = Section()
        if given.get("data-tip"):
            self.now.tips.append(given["data-tip"] or "")
        if tag == "table":
            self.now.tables.append([])
        if tag == "tr":
            self.cells = []
        if tag == "thead":
            self.heads = []
        self.number = given.get("data-value")
        self.text = []

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        self.now.text += data

    def handle_endtag(self, tag: str) -> None:
        text = "".join(self.text)
        if tag == "dt":
            self.now.facts.append((text, ""))
        if tag == "dd" and self.now.facts:
            self.now.facts[-1] = (self.now.facts[-1][0], text)
        if tag == "th":
            self.heads.append(text)
        if tag == "td":
            self.cells.append(text if self.number is None else float(self.number))
        if tag == "tr" and self.cells:
            self.now.tables[-1].append(dict(zip(self.heads, self.cells, strict=True)))


def sections_of(page: Path) -> dict[str, Section]:
    """The sections of a page by name, in their order; what stands above them under ""."""
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.sections
