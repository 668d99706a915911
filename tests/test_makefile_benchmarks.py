"""Every benchmark of the Makefile begins: what it imports is found in the way in which make calls it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CALLS = re.findall(r"\$\(BIN\)/python (-m benchmarks[\w.]*|benchmarks/\w+\.py)", (ROOT / "Makefile").read_text())
NAMES = {call.removeprefix("-m ") for call in CALLS if call.startswith("-m")}
MODULES = sorted(f"{name}.__main__" if ROOT.joinpath(*name.split(".")).is_dir() else name for name in NAMES)
SCRIPTS = sorted({Path(call).stem for call in CALLS if not call.startswith("-m")})
LOAD = "import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(x) for x in sys.argv[2:]]"


@pytest.mark.parametrize(("place", "names"), [(ROOT, MODULES), (ROOT / "benchmarks", SCRIPTS)], ids=["-m", "scripts"])
def test_benchmarks_of_the_makefile_find_their_imports(place: Path, names: list[str], tmp_path: Path) -> None:
    """As `python -m` with the root of the project to import from, as a script with the script's own folder."""
    assert len(names) > 3
    code = [sys.executable, "-c", LOAD, str(place), *names]
    ran = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
