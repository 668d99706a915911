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

# The rooms from the ground up: a module imports modules of its own room and of rooms named before it. A room is a
# folder. Two folders (targets/, operators/) hold what is known of a thing before anything heavy is imported, beside
# what it does: each is two rooms, told apart by file names. `*` is one name; the longest prefix decides, then the
# fewest `*`.
ROOMS = {
    "base": ("base",),
    "cascades": ("cascades",),
    "facts of targets": ("exporters.targets", "exporters.targets.*", "exporters.targets.*.doctor"),
    "tables": ("profile.tables",),
    "letters": ("strategies.operators", "strategies.operators.*", "strategies.operators.*.settings"),
    "profile": ("profile",),
    "metrics": ("metrics",),
    "data": ("data",),
    "models": ("models",),
    "coding": ("coding",),
    "captured": ("network.captured",),
    "attachments": ("network.attachments",),
    "network": ("network",),
    "channel labels": ("surgery.channel_labels",),
    "channels": ("surgery.channels",),
    "low rank": ("surgery.low_rank",),
    "surgery": ("surgery",),
    "brought": ("brought",),
    "loop": ("task.loop",),
    "task": ("task",),
    "strategies": ("strategies",),
    "operators": ("strategies.operators.base", "strategies.operators.*.*"),
    "steps": ("strategies.steps",),
    "memory": ("strategies.memory",),
    "search": ("strategies.search",),
    "NAC's searcher": ("strategies.search.searchers.nac",),
    "searchers": ("strategies.search.searchers",),
    "artifacts": ("exporters.artifacts",),
    "ONNX graph": ("exporters.onnx_graph",),
    "runtimes": (
        *(f"exporters.targets.{name}" for name in ("runtime", "ported", "timing", "pick", "gpu")),
        "exporters.targets.*.*",
    ),
    "exporters": ("exporters",),
    "latencies": ("latencies",),
    "charts": ("reports.charts",),
    "reports": ("reports",),
    "sessions": ("sessions",),
    "trials": ("trials",),
    "forecasts": ("forecasts",),
    "results": ("results",),
    "config": ("experiments.config",),
    "driver": ("experiments.driver",),
    "procedures": ("experiments.procedures",),
    "script": ("experiments.script",),
    "experiments": ("experiments",),
    "commands": ("commands",),
    "testing": ("testing",),
    "api": ("api",),
    "cli": ("cli",),
    "nacdeploy": ("",),
}
ORDER = {room: place for place, room in enumerate(ROOMS)}
N_FILES = 12
ONE_FILE_PER_COMMAND = {"cli", "commands"}
NOT_OF_THE_PACKAGE = {"benchmarks", "contracts", "fixtures", "site_packages"}

HOMES = {
    "bitarray": {"coding.symbols"},
    "torch_pruning": {"surgery.channels.channel_graph"},
    "tensorrt": {"exporters.targets.tensorrt.api"},
    "tensorrt_rtx": {"exporters.targets.tensorrt.api"},
    "torch_tensorrt": {"exporters.targets.torch_trt.build"},
    "wandb": {"base.tracking.wandb_tracker", "base.tracking.download"},
    "mlflow": {"base.tracking.mlflow_tracker", "exporters.mlflow_model.program"},
    "onnxruntime": {"exporters.targets.ort.runner", "models.from_onnx.running"},
    "onnxruntime.transformers.float16": {"exporters.targets.tensorrt.fp16"},
    "openvino": {"exporters.targets.openvino.runner"},
    "accelerate": {"task.loop.together"},
    "ray": {"strategies.search.cluster"},
    "gymnasium": {"strategies.search.searchers.nac.environment"},
    "timm": {"models"},
    "fsspec": {"strategies.memory.places"},
    "tensorly": {"surgery.low_rank.low_rank"},
    "datasets": {"data.sources.packed.hub"},
    "pyarrow": {"data.sources.packed.hub"},
    "optuna": {"experiments.driver.proposers"},
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


def room_of(module: str) -> str | None:
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((room for prefix in prefixes if (room := _room_named(prefix)) is not None), None)


def _room_named(name: str) -> str | None:
    """The room with a pattern of as many parts that fits the name."""
    found = [
        (pattern.count("*"), room)
        for room, patterns in ROOMS.items()
        for pattern in patterns
        if pattern.count(".") == name.count(".") and fnmatch(name, pattern)
    ]
    return min(found)[1] if found else None


def test_every_module_has_a_room() -> None:
    homeless = [module for module in MODULES if room_of(module) is None]
    assert homeless == [], "give each a place in ROOMS, and in docs/architecture.md"


def test_every_room_is_there() -> None:
    assert {room_of(module) for module in MODULES} == set(ROOMS)


def test_arrows_between_rooms_point_one_way() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in own_imports(module)
        if ORDER[room_of(name) or ""] > ORDER[room_of(module) or ""]
    ]
    assert wrong == []


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in MODULES.values()}
    n_files = {
        ".".join(folder.relative_to(PACKAGE).parts): sum(p.name != "__init__.py" for p in folder.glob("*.py"))
        for folder in folders
    }
    assert {name for name, n in n_files.items() if n > N_FILES} <= ONE_FILE_PER_COMMAND


def test_tests_mirror_the_package_s_folders() -> None:
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    strangers = {
        str(folder)
        for folder in folders
        if not {*folder.parts} & NOT_OF_THE_PACKAGE and not (PACKAGE / folder / "__init__.py").is_file()
    }
    assert strangers == set()


def test_only_its_command_enters_the_wing_of_experiments() -> None:
    entering = {
        module
        for module in MODULES
        if not _within(module, "experiments") and any(_within(name, "experiments") for name in own_imports(module))
    }
    assert entering == {"commands.compress"}


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
    room = [
        module for module in MODULES if _within(module, importer) and module != "strategies.search.searchers.nac.dqn"
    ]
    assert [module for module in room if any(_within(name, imported) for name in imports_of(module))] == []


def test_nobody_imports_the_command_line() -> None:
    others = [module for module in MODULES if not _within(module, "cli")]
    assert [module for module in others if any(_within(name, "nacdeploy.cli") for name in imports_of(module))] == []


def test_operators_never_import_each_other() -> None:
    siblings = {m for m in MODULES if fnmatch(m, "strategies.operators.*.operator")}
    assert [(m, name) for m in siblings for name in own_imports(m) & siblings] == []


LIGHT = (
    "nacdeploy",
    "nacdeploy.cli.main",
    "nacdeploy.profile",
    "nacdeploy.base.tracking",
    "nacdeploy.exporters.targets",
)


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
