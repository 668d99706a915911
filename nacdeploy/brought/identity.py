"""Identity: a hash of the code of a user's functions, so that what was learned with one is not taken for another's.

What a function calls of its own module counts with it, and so do its constants, defaults and closed-over numbers. Data
and modules that it holds count by their class: their content has hashes of its own.
"""

import functools
import hashlib
import types
from collections.abc import Iterator
from typing import Any

_SIMPLE = (int, float, complex, str, bytes, bool, type(None))
_HOLDERS = (tuple, list, frozenset, set, dict)
_LIBRARIES = {"builtins", "functools", "numpy", "torch", "torchmetrics", "torchvision", "transformers", "lightning"}
_MOST = 1000  # parts of a holder that are looked at: what has more is data
_PASSING = ("training",)  # attributes that say how an object is just now


def of(*functions: Any) -> str:
    """Return the hash of functions, in order; None counts as none."""
    found, seen = hashlib.sha256(), dict[int, Any]()
    ahead = list(reversed(functions))
    while ahead:  # no recursion: a chain of calls may be long
        given = ahead.pop()
        piece = _piece(given)
        found.update(f"{len(piece)}:".encode() + piece)
        if isinstance(given, _SIMPLE) or id(given) in seen:
            continue
        if not isinstance(given, tuple | frozenset):  # equal constants may be one object or two
            seen[id(given)] = given  # held, so that no other object gets its place
        ahead += reversed([*_held(given)] if isinstance(given, _HOLDERS) else [*_parts(given)])
    return found.hexdigest()


def _piece(given: Any) -> bytes:
    if isinstance(given, _SIMPLE):
        return repr(given).encode()
    if isinstance(given, _HOLDERS):
        return f"{type(given).__name__} {len(given)}".encode()
    return f"{type(given).__qualname__} {getattr(given, '__qualname__', '')}".encode()


def _held(given: Any) -> Iterator[Any]:
    if len(given) > _MOST:
        return
    if isinstance(given, dict):
        yield from (part for pair in given.items() for part in pair)
    else:  # the order of texts in a set changes from process to process
        yield from sorted(given, key=repr) if isinstance(given, frozenset | set) else given


def _parts(given: Any) -> Iterator[Any]:
    """Yield what else decides: code, defaults, what is closed over, what is called of the same module."""
    if isinstance(given, types.CodeType):
        yield from (given.co_code, given.co_names, given.co_consts)
    elif isinstance(given, functools.partial):
        yield from (given.func, given.args, given.keywords)
    elif isinstance(given, types.MethodType):
        yield from (given.__func__, given.__self__)
    elif isinstance(given, types.FunctionType):
        if _is_foreign(given):
            yield given.__module__
            return
        yield from (given.__code__, given.__defaults__, given.__kwdefaults__, *_closed_over(given), *_called(given))
    elif isinstance(given, type):
        yield from _methods(given)
    elif callable(given) and not _is_foreign(type(given)):
        yield type(given)
        own = getattr(given, "__dict__", {})
        yield {k: v for k, v in own.items() if isinstance(v, _SIMPLE) and k not in _PASSING and k[:1] != "_"}


def _methods(given: type) -> Iterator[Any]:
    if not _is_foreign(given):
        own = ((key, getattr(value, "__func__", value)) for key, value in vars(given).items())
        yield from (
            (key, value) for key, value in own if isinstance(value, (types.FunctionType, *_SIMPLE)) and key[:2] != "__"
        )
        yield from (vars(given).get(key) for key in ("__init__", "__call__"))


def _is_foreign(given: Any) -> bool:
    """Tell whether a class or function is a library's, whose code is not read."""
    return str(given.__module__).split(".")[0] in _LIBRARIES


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


def _called(function: types.FunctionType) -> Iterator[Any]:
    """Yield the functions, classes and constants of the function's own module that its code names."""
    for name in sorted(set(_names(function.__code__))):
        value = function.__globals__.get(name)
        is_code = isinstance(value, types.FunctionType | type) and value.__module__ == function.__module__
        if is_code or isinstance(value, _SIMPLE):
            yield (name, value)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)
