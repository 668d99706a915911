"""The examples in docstrings run, and every public function and every protocol has one."""

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest

import nacdeploy

PACKAGE = Path(nacdeploy.__file__).parent
SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def _module(path: Path) -> str:
    return ".".join(("nacdeploy", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def _examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [import_module(_module(path)) for path, source in SOURCES.items() if ">>> " in source]
    return [each for module in modules for each in finder.find(module) if each.examples]


EXAMPLES = _examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
def test_example_prints_what_it_says(
    example: doctest.DocTest, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    outcome = doctest.DocTestRunner(verbose=False).run(example)
    assert outcome.failed == 0, capsys.readouterr().out


def test_every_public_function_has_an_example() -> None:
    public = [getattr(nacdeploy, name) for name in nacdeploy.__all__]
    errors = (nacdeploy.NacdeployError, nacdeploy.Result)
    wanted = {f"{each.__module__}.{each.__name__}" for each in public if not (each in errors or _is_error(each))}
    assert wanted - {example.name for example in EXAMPLES} == set()


def _is_error(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, Exception)


def test_every_protocol_has_an_example() -> None:
    wanted = {
        f"{_module(path)}.{node.name}"
        for path, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).split("[")[0] == "Protocol" for base in node.bases)
    }
    assert len(wanted) > 10
    assert wanted - {example.name for example in EXAMPLES} == set()


# Rooms whose functions are still described by what they return.
NOT_YET = ("trials", "strategies.search", "network.attachments", "commands.search")
NOUNS = ("The ", "A ", "An ", "All ", "Every ", "Each ", "Whether ")


def _described() -> list[tuple[str, ast.AST, str]]:
    """Module, definition and first line of every docstring."""
    return [
        (_module(path).removeprefix("nacdeploy."), node, text.splitlines()[0])
        for path, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node))
    ]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    vague = [f"{module}: {line}" for module, _, line in _described() if line.startswith(("What ", "Those ", "As `"))]
    assert vague == [], "say what it is (The ranges of ...) or what it does (Return the ...)"


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    nouns = [
        f"{module}: {line}"
        for module, node, line in _described()
        if isinstance(node, ast.FunctionDef) and line.startswith(NOUNS) and not module.startswith(NOT_YET)
        if not any("property" in ast.unparse(each) for each in node.decorator_list)
    ]
    assert nouns == [], "say what it does (Return the ..., Yield the ..., Tell whether ...)"
