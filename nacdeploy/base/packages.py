"""Whether the Python packages that something needs are here."""

import importlib
from importlib import util


def import_problem(module: str) -> str | None:
    """Why a module cannot be imported, or None. Installed is not enough: a library beneath it may be missing."""
    if util.find_spec(module) is None:
        return f"{module} is not installed"
    try:
        importlib.import_module(module)
    except Exception as error:  # native packages fail with whatever their loader raises
        return f"{module} is installed but cannot be imported: {' '.join(str(error).split())}"
    return None
