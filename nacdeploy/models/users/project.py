"""A user's model file and the modules of its own project that it imports: found without running them, and hashed.

Modules are searched as `python models/net.py`, or `python -m models.net` from the project's root, would: beside the
file, where its package begins, at the project's root (which holds .git, pyproject.toml or the like), in the current
folder if the file lies in it, on PYTHONPATH, and, after the installed packages, in the folder above. Python's own
modules and installed packages are no part of a project.
"""

import ast
import hashlib
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from nacdeploy.base.errors import UsageError

_MARKERS = (".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
# Only running code that calls these shows its imports: every file below its folder counts.
_DYNAMIC = {"import_module", "spec_from_file_location", "run_path", "run_module"}
_DYNAMIC_NAMES = {*_DYNAMIC, "__import__", "exec", "eval"}
_NO_SOURCES = {"__pycache__", "node_modules", "site-packages", "build", "dist", "runs", "wandb"}


@dataclass(frozen=True)
class Roots:
    """The folders in which a project's modules are searched: before the installed packages, and after them."""

    first: tuple[Path, ...]
    last: tuple[Path, ...]


@dataclass(frozen=True)
class Project:
    """A model file with its imports from its own project.

    Attributes:
        path: the model file.
        main: the module name under which the model file runs.
        roots: the folders in which its modules are searched.
        files: the files by module name.
        contents: the contents by file.
        sha256: the hash of the file if it imports no module of its project, else of all contents.
    """

    path: Path
    main: str
    roots: Roots
    files: dict[str, Path]
    contents: dict[Path, bytes]
    sha256: str

    @property
    def imported(self) -> tuple[str, ...]:
        """The names of the modules that the file imports from its project."""
        return tuple(sorted(name for name in self.files if name != self.main))


def read(path: Path) -> Project:
    """Read the project of a model file as its files are now, without running any of it.

    Raises:
        UsageError: the file cannot be read.
    """
    given, path = path, Path(os.path.abspath(path))  # noqa: PTH100 - links stay: a link's neighbours are meant
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"model file {given} cannot be read ({error.strerror})") from error
    package = _package(path, _imports(source))
    alone = f"nacdeploy_file_{path.stem}_{hashlib.sha256(str(path).encode() + source).hexdigest()[:12]}"
    main = ".".join((*package, path.stem)) if package else alone
    found = _Closure(_roots(path, path.parents[len(package)]), {main: path}, {path: source})
    if package:
        found.add(".".join(package))
    found.follow(main)
    return Project(path, main, found.roots, found.files, found.contents, _digest(found, main))


def locate(name: str, roots: Roots) -> Path | None:
    """Return the file of a project's module, or the folder of a package without __init__.py.

    None says that the module is installed or not there.
    """
    top, *rest = name.split(".")
    if top in sys.stdlib_module_names or top == "nacdeploy":
        return None
    for folders in (roots.first, roots.last):
        places = [place for folder in folders if (place := _in_folder(folder, top)) is not None]
        regular = next((place for place in places if place.is_file()), None)
        if regular is not None:
            return _below(regular, rest)
        if _is_installed(top):
            return None
        found = next((file for place in places if (file := _below(place, rest)) is not None), None)
        if found is not None:
            return found
    return None


def _digest(found: "_Closure", main: str) -> str:
    hashes = {name: hashlib.sha256(found.contents[file]).hexdigest() for name, file in found.files.items()}
    own = hashes.pop(main)
    if not hashes:
        return own
    lines = [own, *(f"{name} {digest}" for name, digest in sorted(hashes.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _package(path: Path, imports: "_Imports") -> tuple[str, ...]:
    """Return the packages that a file runs within, the outermost first: none if the file imports nothing from them."""
    names: list[str] = []
    for folder in path.parents:
        if len(names) >= imports.depth and not (folder / "__init__.py").is_file():
            break
        names.insert(0, folder.name)
    is_asked = imports.depth or (names and any(name.split(".")[0] == names[0] for name in imports.names))
    return tuple(names) if is_asked and all(name and "." not in name for name in names) else ()


def _roots(path: Path, top: Path) -> Roots:
    project = next((f for f in path.parents if any((f / marker).exists() for marker in _MARKERS)), path.parent)
    here = [Path.cwd()] if path.is_relative_to(Path.cwd()) else []
    given = [Path(p).absolute() for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    own = Path(__file__).parents[2]  # nacdeploy's
    folders = dict.fromkeys((path.parent, top, project, *here, *given))
    return Roots(tuple(f for f in folders if f != own and "site-packages" not in f.parts), (path.parent.parent,))


@dataclass(frozen=True)
class _Imports:
    """The imports of a source: absolute names, relative names with their level, and whether the source may import
    others."""

    names: tuple[str, ...]
    relative: tuple[tuple[int, str], ...]
    is_dynamic: bool

    @property
    def depth(self) -> int:
        """The number of packages around the source that its relative imports need."""
        return max((level for level, _ in self.relative), default=0)


@lru_cache(maxsize=4096)
def _imports(source: bytes) -> _Imports:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # reported when the file is run
        return _Imports((), (), False)
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    relative: list[tuple[int, str]] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found = [base, *(".".join(filter(None, (base, alias.name))) for alias in node.names)]
            names += [] if node.level else found
            relative += [(node.level, name) for name in found if node.level]
    calls = {node.id for node in nodes if isinstance(node, ast.Name)} & _DYNAMIC_NAMES
    methods = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & _DYNAMIC
    return _Imports(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(relative)), bool(calls or methods))


@dataclass
class _Closure:
    """The modules that a file imports from its project, the modules that these import, and so on."""

    roots: Roots
    files: dict[str, Path]
    contents: dict[Path, bytes]

    def add(self, name: str) -> None:
        """Add a module of the project, after the packages around it."""
        parts = name.split(".")
        for inner in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            file = locate(inner, self.roots)
            if file is None:
                return
            if inner not in self.files and file.is_file():
                self.contents.setdefault(file, _content(file))
                self.files[inner] = file
                self.follow(inner)

    def follow(self, name: str) -> None:
        """Add the imports of a module."""
        file = self.files[name]
        if file.suffix != ".py":
            return
        imports = _imports(self.contents[file])
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for wanted in imports.names:
            self.add(wanted)
        for level, wanted in imports.relative:
            around = package[: len(package) - level + 1]
            if around:
                self.add(".".join(filter(None, (*around, wanted))))
        if imports.is_dynamic:
            for other in _sources(file.parent):
                if other not in self.contents:
                    self.contents[other] = _content(other)
                    self.files[f"./{other.relative_to(file.parent).as_posix()}"] = other


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}, which the model file imports, cannot be read ({error.strerror})") from error


def _sources(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        kept = [f for f in folders if not f.startswith(".") and f not in _NO_SOURCES]
        folders[:] = sorted(f for f in kept if not Path(where, f, "pyvenv.cfg").exists())
        yield from (Path(where, name) for name in sorted(names) if name.endswith(".py"))


def _in_folder(folder: Path, name: str) -> Path | None:
    """Return the entry of a folder for a name: a package, a module, a compiled module, or a folder."""
    files = [folder / name / "__init__.py", *(folder / f"{name}{s}" for s in importlib.machinery.all_suffixes())]
    return next((file for file in files if file.is_file()), folder / name if (folder / name).is_dir() else None)


def _below(found: Path, rest: Sequence[str]) -> Path | None:
    for name in rest:
        folder = found.parent if found.name == "__init__.py" else found
        below = _in_folder(folder, name)
        if below is None:
            return None
        found = below
    return found


@cache
def _is_installed(name: str) -> bool:
    """Tell whether Python itself finds a top-level module, other than as a folder without __init__.py."""
    spec = importlib.machinery.PathFinder.find_spec(name)
    return spec is not None and spec.origin is not None
