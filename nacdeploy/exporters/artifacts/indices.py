"""Long lists of numbers leave a manifest, which people read, for one file beside it: `indices.json`.

In the place of a list stands `{"$indices": 3, "n": 48}`: entry 3 of that file, 48 numbers. Equal lists are one entry.
"""

import json
from typing import Any

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors

INDICES = "indices.json"
_KEY, _LEAST = "$indices", 9


def moved(data: Any) -> tuple[Any, list[list[Any]]]:
    """Return plain data with references in place of long lists of numbers, and these lists."""
    places: dict[tuple[Any, ...], int] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: walk(value) for key, value in part.items()}
        if not isinstance(part, list | tuple):
            return part
        if len(part) < _LEAST or not all(type(each) is int for each in part):
            return [walk(each) for each in part]
        return {_KEY: places.setdefault(tuple(part), len(places)), "n": len(part)}

    return walk(data), [list(each) for each in places]


def text(lists: list[list[Any]]) -> str:
    """Return the content of the file, one list a line."""
    return "[\n" + ",\n".join(json.dumps(each) for each in lists) + "\n]\n"


def restored(data: Any, lists: Any, where: str) -> Any:
    """Return plain data with the lists in their places.

    Raises:
        UsageError: a reference leads to no list, or the whole is larger than a record may be.
    """
    left = doors.limits().values

    def walk(part: Any) -> Any:
        nonlocal left
        if isinstance(part, list):
            return [walk(each) for each in part]
        if not isinstance(part, dict):
            return part
        if _KEY not in part:
            return {key: walk(value) for key, value in part.items()}
        found = _found(lists, part[_KEY], where)
        left -= len(found)
        if left < 0:
            raise doors.above(where, "holds too many values", "values")
        return list(found)

    return walk(data)


def _found(lists: Any, index: Any, where: str) -> list[Any]:
    is_one = isinstance(lists, list) and type(index) is int and 0 <= index < len(lists)
    if not is_one or not isinstance(lists[index], list):
        raise UsageError(
            f"{where} names list {str(index)[:40]} of {INDICES}, which is not there; copy the artifact again"
        )
    found: list[Any] = lists[index]
    return found
