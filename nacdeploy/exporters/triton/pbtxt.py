"""Protocol buffers as text, the format of Triton's config.pbtxt.

A dictionary is a message, a list a repeated field, a `Word` the name of an enumeration's value; an entry of a map is a
message of `key` and `value`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Word(str):
    """The name of a value of an enumeration, which stands without quotes."""


def text(message: Mapping[str, Any]) -> str:
    """Return a message as text.

    >>> print(text({"name": "net", "input": [{"data_type": Word("TYPE_FP32"), "dims": [3]}]}), end="")
    name: "net"
    input {
      data_type: TYPE_FP32
      dims: 3
    }
    """
    return "".join(f"{line}\n" for line in _lines(message))


def entries(mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a map as its entries."""
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        for each in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
            if isinstance(each, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(each))
                yield "}"
            else:
                yield f"{name}: {_scalar(each)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word) or not isinstance(value, str):
        return str(value)
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return "".join(f"\\{byte:03o}" for byte in letter.encode()) if letter < " " or letter == "\x7f" else letter
