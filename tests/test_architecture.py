"""The import graph: who may import whom, no cycles, and one home for each heavy package (docs/architecture.md).

Every import counts, those inside functions too: a lazy import hides a wrong arrow from Python, not from a reader.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from nacdeploy.exporters.targets import FOLDERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nacdeploy"

# What is known of a target is light and stands low; what it can do is looked up by name, and stands with the exporters.
RUNTIMES = tuple(
    f"exporters.targets.{name}"
    for name in ("runtime", "timing", "pick", "gpu", "onnx", "ort", "openvino", "tensorrt", "torch_trt")
)

# A module may import modules of its own row and of the rows above it. The longest prefix decides; `*` is any part.
# What a profile reads of the operators (their letters and tables) stands above what they do.
ROWS = (
    ("errors", "doors", "own", "leaving", "folders", "records", "scores", "precision", "progress", "plugins"),
    (
        "metrics",
        "strategies.chain",
        "strategies.catalog",
        "profile",
        "strategies.operators",
        "tracking",
        "environment",
        "exporters.targets",
    ),
    ("coding",),
    ("layers", "cost", "task", "models", "data"),
    ("evaluate", "training", "latency"),
    ("strategies", "strategies.operators.base", "strategies.operators.*.operator"),
    ("exporters", *RUNTIMES, "strategies.search", "experiments"),
    ("reports",),
    ("jobs",),
    ("api", "testing"),
    ("cli", ""),
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}

HOMES = {
    "bitarray": {"coding.symbols"},
    "torch_pruning": {"layers.channel_graph"},
    "tensorrt": {"exporters.targets.tensorrt.api"},
    "tensorrt_rtx": {"exporters.targets.tensorrt.api"},
    "torch_tensorrt": {"exporters.targets.torch_trt.build"},
    "wandb": {"tracking"},
    "onnxruntime": {"exporters.targets.ort.runner"},
    "onnxruntime.transformers.float16": {"exporters.targets.tensorrt.fp16"},
    "openvino": {"exporters.targets.openvino.runner"},
    "ray": {"strategies.search.cluster"},
    "gymnasium": {"strategies.search.environment"},
    "timm": {"models"},
    "fsspec": {"strategies.places"},
    "tensorly": {"layers.low_rank"},
    "optuna": {"experiments.proposers"},
}


def source_modules() -> dict[str, Path]:
    """Every module by its name below nacdeploy; a package has the name of its folder, nacdeploy itself is ""."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = source_modules()


@cache
def imports_of(module: str) -> frozenset[str]:
    """Full names of what a module imports anywhere in its text; `from a import b` gives a.b."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in _names(node, module))


def _names(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module} imports relatively; write nacdeploy.… in full"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """The modules of this package that a module imports; `from nacdeploy.models import build` is one of models."""
    names = (name.split(".")[1:] for name in imports_of(module) if _within(name, "nacdeploy"))
    return {_longest(parts) for parts in names} - {module}


def _longest(parts: list[str]) -> str:
    prefixes = (".".join(parts[:n]) for n in range(len(parts), -1, -1))
    return next(prefix for prefix in prefixes if prefix in MODULES)


def row_of(module: str) -> int | None:
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    found = (row for prefix in prefixes for name, row in ROW_OF.items() if fnmatch(prefix, name))
    return next(found, ROW_OF[""] if module == "" else None)


def test_every_module_has_a_row() -> None:
    homeless = [module for module in MODULES if row_of(module) is None]
    assert homeless == [], "give each a place in ROWS, and in docs/architecture.md"


def test_arrows_point_one_way() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in own_imports(module)
        if (row_of(name) or 0) > (row_of(module) or 0)
    ]
    assert wrong == []


def test_import_graph_has_no_cycle() -> None:
    graph = {module: own_imports(module) for module in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' <- '.join(error.args[1])}")
    assert set(order) == set(graph)


@pytest.mark.parametrize("package", HOMES)
def test_heavy_package_is_imported_in_its_home_only(package: str) -> None:
    exempt = {name for name in HOMES if name.startswith(f"{package}.")}
    strangers = [
        module
        for module in MODULES
        if not any(module == home or module.startswith(f"{home}.") for home in HOMES[package])
        if any(_within(name, package) and not _excused(name, module, exempt) for name in imports_of(module))
    ]
    assert strangers == []


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _excused(name: str, module: str, exempt: set[str]) -> bool:
    return any(_within(name, inner) and module in HOMES[inner] for inner in exempt)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("strategies.search", "torch"),
        ("strategies.search", "nacdeploy.exporters"),
        ("exporters", "nacdeploy.strategies.search"),
        ("exporters.targets", "nacdeploy.strategies"),
    ],
)
def test_room_never_imports(importer: str, imported: str) -> None:
    """NAC's agent alone is a network: `dqn` is imported where it is asked for."""
    room = [module for module in MODULES if _within(module, importer) and module != "strategies.search.dqn"]
    assert [module for module in room if any(_within(name, imported) for name in imports_of(module))] == []


def test_nobody_imports_the_command_line() -> None:
    others = [module for module in MODULES if not _within(module, "cli")]
    assert [module for module in others if any(_within(name, "nacdeploy.cli") for name in imports_of(module))] == []


def test_operators_never_import_each_other() -> None:
    siblings = {m for m in MODULES if fnmatch(m, "strategies.operators.*.operator")}
    assert [(m, name) for m in siblings for name in own_imports(m) & siblings] == []


LIGHT = ("nacdeploy", "nacdeploy.cli.main", "nacdeploy.profile", "nacdeploy.tracking", "nacdeploy.exporters.targets")


@pytest.mark.parametrize(
    "module", [*LIGHT, *(f"nacdeploy.exporters.targets.{name}" for name in sorted(set(FOLDERS.values())))]
)
def test_light_module_does_not_import_torch(module: str) -> None:
    if module.removeprefix("nacdeploy").removeprefix(".") not in MODULES:
        pytest.skip(f"{module} is not written yet")
    heavy = "{'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'wandb', 'sklearn', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"
