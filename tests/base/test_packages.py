"""Packages that are here, missing or broken."""

import importlib
import sys
from pathlib import Path

import pytest

from nacdeploy.base.packages import import_problem


def test_import_problem_tells_missing_from_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_native.py").write_text("raise OSError('libnvinfer.so.11:\\n cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert import_problem("json") is None
    assert import_problem("no_such_module") == "no_such_module is not installed"
    assert import_problem("broken_native") == (
        "broken_native is installed but cannot be imported: libnvinfer.so.11: cannot open"
    )
    assert "broken_native" not in sys.modules
