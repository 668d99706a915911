"""Elements and tables as HTML, every text escaped: notebooks show tables in place of an object's name."""

from collections.abc import Sequence
from html import escape


def tag(name: str, text: str = "", *, raw: str = "", **attributes: str) -> str:
    """Return an element; `raw` is content that is HTML already. Of attributes, `klass` is `class`, and `_` is `-`.

    >>> tag("text", "<b>", x="1", klass="name", text_anchor="end")
    '<text x="1" class="name" text-anchor="end">&lt;b&gt;</text>'
    """
    named = {("class" if key == "klass" else key.replace("_", "-")): value for key, value in attributes.items()}
    head = "".join(f' {key}="{_attribute(value)}"' for key, value in named.items())
    return f"<{name}{head}>{escape(text)}{raw}</{name}>"


def _attribute(value: str) -> str:
    """Escape the value of an attribute, the ends of its lines too, which XML would read as spaces."""
    return escape(value).replace("\n", "&#10;")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as HTML.

    >>> table("<speed>", ["x"], [["2.0x"]])
    '<table><caption>&lt;speed&gt;</caption><tr><th>x</th></tr><tr><td>2.0x</td></tr></table>'
    """
    head = "".join(tag("th", column) for column in columns)
    body = "".join(tag("tr", raw="".join(tag("td", text) for text in row)) for row in rows)
    return tag("table", raw=tag("caption", title) + tag("tr", raw=head) + body)
