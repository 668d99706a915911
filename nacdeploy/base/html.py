"""Tables as HTML, which notebooks show in place of an object's name."""

from collections.abc import Sequence
from html import escape


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML, every text escaped.

    >>> table("<speed>", ["x"], [["2.0x"]])
    '<table><caption>&lt;speed&gt;</caption><tr><th>x</th></tr><tr><td>2.0x</td></tr></table>'
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table>"
