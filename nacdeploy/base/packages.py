"""Tests whether a Python package can be imported here."""

import importlib
from importlib import util


def import_problem(module: str) -> str | None:
    """Return why a module cannot be imported, or None. An installed module may fail too: a library beneath may be
    missing."""
    if util.find_spec(module) is None:
        return f"{module} is not installed"
    try:
        importlib.import_module(module)
    except Exception as error:  # the loader of a native package may raise any error
        return f"{module} is installed but cannot be imported: {' '.join(str(error).split())}"
    return None
