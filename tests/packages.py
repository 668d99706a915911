"""Packages of other people, laid out as pip leaves them: a module and a dist-info folder with its entry points."""

from pathlib import Path

SETTINGS = """
from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter

class {name}Table(Table):
    strength: float = 0.5

LETTER = Letter("{letter}", "{table}", {name}Table, "{module}:{name}")
"""


def lay_out(folder: Path, package: str, module: str, text: str, entry: str = "LETTER") -> Path:
    """A package with one module and one entry point of the group of operators, in a folder to put on `sys.path`."""
    info = folder / f"{package.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[nacdeploy.operators]\n{module} = {module}:{entry}\n")
    (folder / f"{module}.py").write_text(text)
    return folder


def lay_out_letter(folder: Path, module: str, letter: str, table: str) -> Path:
    """The same, of a package that registers a letter with a table of one key."""
    text = SETTINGS.format(name=module.title(), letter=letter, table=table, module=module)
    return lay_out(folder, f"the-{module}", module, text)
