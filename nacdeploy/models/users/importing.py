"""Running a user's model file as a module: from the very bytes that were hashed, with its project's modules importable.

A project's modules stand in `sys.modules` under their own names, as elsewhere in Python, until another project (or the
same project with another content) is used. Then they are set aside, and return when their project is used again.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from nacdeploy.models.users.project import Project, locate

_finders: dict[tuple[Path, str], "_Finder"] = {}


def module(project: Project) -> ModuleType:
    """Return the module of a project's model file; the file runs once for each content.

    Raises:
        BaseException: whatever the file raises.
    """
    finder = _finder(project)
    if finder.main is None:
        with at_hand(project):
            finder.main = importlib.import_module(project.main)
    return finder.main


@contextmanager
def at_hand(project: Project) -> Iterator[None]:
    """Make the project's modules importable: within the block before all others, after the block last and only known
    ones.

    Known modules are the imports of the project's files.
    """
    finder = _finder(project)
    if finder not in sys.meta_path:
        for other in [f for f in sys.meta_path if isinstance(f, _Finder)]:
            sys.meta_path.remove(other)
            other.leave()
        finder.enter()
    else:
        sys.meta_path.remove(finder)
    sys.meta_path.insert(0, finder)
    finder.is_first = True
    try:
        yield
    finally:
        finder.is_first = False
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
            sys.meta_path.append(finder)


def _finder(project: Project) -> "_Finder":
    return _finders.setdefault((project.path, project.sha256), _Finder(project))


class _Source(SourceFileLoader):
    """Runs a module from given bytes: a cached .pyc may be older than the bytes, and the file newer."""

    def __init__(self, name: str, file: Path, content: bytes) -> None:
        super().__init__(name, str(file))
        self.content = content

    def get_code(self, fullname: str) -> CodeType:
        """See `importlib.abc.InspectLoader`."""
        code: CodeType = self.source_to_code(self.content, self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds the modules of one project; `names` are the modules found so far."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.main: ModuleType | None = None
        self.is_first = False
        self.names: set[str] = set()
        self._own: dict[str, ModuleType] = {}
        self._others: dict[str, ModuleType] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        file = self.project.path if name == self.project.main else self._located(name)
        if file is None:
            return None
        self.names.add(name)
        if file.is_dir():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            return spec
        if file.suffix != ".py":
            return importlib.util.spec_from_file_location(name, file)
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        content = self.project.contents.get(file)
        loader = _Source(name, file, file.read_bytes() if content is None else content)
        return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=folders)

    def _located(self, name: str) -> Path | None:
        top = name.partition(".")[0]
        is_asked = name == top and (self.is_first or any(f.partition(".")[0] == top for f in self.project.files))
        return locate(name, self.project.roots) if is_asked or top in self.names else None

    def enter(self) -> None:
        """Put the project's modules into `sys.modules`, and set aside other modules of the same names."""
        names = [name.split(".") for name in self.project.files if "/" not in name]
        wanted = {".".join(parts[:n]) for parts in names for n in range(1, len(parts) + 1)} | self._own.keys()
        self._others = {name: sys.modules.pop(name) for name in wanted if name in sys.modules}
        sys.modules.update(self._own)

    def leave(self) -> None:
        """Take the project's modules out of `sys.modules`, and restore the modules that were set aside."""
        self._own = {name: sys.modules.pop(name) for name in self.names if name in sys.modules}
        sys.modules.update(self._others)
        self._others = {}
