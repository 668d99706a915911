"""A model file of a project: its own modules are found in every spelling, counted in its sha256, and kept apart."""

import importlib.util
import os
import py_compile
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.models import ModelSpec
from nacdeploy.models.users import project

NET = """
from torch import nn
{imports}
def net(n_classes):
    return nn.Sequential(nn.Flatten(), {block}(4, n_classes))
"""
BLOCKS = """
from torch import nn
WIDTH = {width}
def block(i, o):
    return nn.Sequential(nn.Linear(i, WIDTH), nn.Linear(WIDTH, o))
"""


def lay_out(folder: Path, how: str = "blocks", width: int = 3, package: bool = True) -> Path:
    """models/net.py that imports a block from models/blocks.py as `how` says."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    if package:
        (folder / "models" / "__init__.py").write_text("")
    (folder / "models" / "blocks.py").write_text(BLOCKS.format(width=width))
    path = folder / "models" / "net.py"
    path.write_text(NET.format(imports=f"from {how} import block", block="block"))
    return path


def named(path: Path, factory: str = "net") -> ModelSpec:
    models.name_by_user(f"{path}:{factory}")
    return models.resolve(f"{path}:{factory}", n_classes=5, channels=1, input_size=(2, 2))


def widths(model: nn.Module) -> list[int]:
    return [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("package", [True, False], ids=["package", "folder"])
@pytest.mark.parametrize("how", ["blocks", "models.blocks", ".blocks"])
@pytest.mark.parametrize("here", ["root", "beside", "elsewhere"])
def test_project_s_modules_are_found_in_every_spelling_and_from_every_folder(
    how: str, here: str, package: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lay_out(tmp_path / "project", how, package=package)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir({"root": path.parent.parent, "beside": path.parent, "elsewhere": tmp_path / "elsewhere"}[here])
    relative = {"root": "models/net.py", "beside": "net.py", "elsewhere": "../project/models/net.py"}[here]
    model = named(Path(relative)).build()
    assert model(torch.zeros(1, 1, 2, 2)).shape == (1, 5)


@pytest.mark.parametrize("how", ["blocks", "models.blocks", ".blocks"])
def test_changed_module_is_noticed(how: str, tmp_path: Path) -> None:
    path = lay_out(tmp_path, how)
    spec = named(path)
    assert widths(spec.build()) == [3, 5]
    lay_out(tmp_path, how, width=7)
    with pytest.raises(UsageError, match=r"with what it imports \(.*blocks.*\) has changed: sha256"):
        spec.build()
    assert widths(named(path).build()) == [7, 5]
    lay_out(tmp_path, how)
    assert widths(spec.build()) == [3, 5]


def test_module_imported_by_a_module_or_in_a_function_counts(tmp_path: Path) -> None:
    path = lay_out(tmp_path)
    (tmp_path / "models" / "blocks.py").write_text(
        "def block(i, o):\n    import deeper\n    return deeper.layer(i, o)\n"
    )
    (tmp_path / "models" / "deeper.py").write_text("from torch import nn\ndef layer(i, o): return nn.Linear(i, o)\n")
    before = named(path)
    before.build()
    (tmp_path / "models" / "deeper.py").write_text(
        "from torch import nn\ndef layer(i, o): return nn.Linear(i, o, bias=False)\n"
    )
    assert named(path).source_sha256 != before.source_sha256


@pytest.mark.parametrize("call", ["importlib.import_module('chosen')", "__import__('chosen')"])
def test_every_file_beside_counts_when_imports_are_made_at_run_time(call: str, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(NET.format(imports=f"import importlib\nblock = {call}.block", block="block"))
    (tmp_path / "chosen.py").write_text(BLOCKS.format(width=3))
    before = named(path)
    assert widths(before.build()) == [3, 5]
    (tmp_path / "chosen.py").write_text(BLOCKS.format(width=4))
    assert named(path).source_sha256 != before.source_sha256
    assert widths(named(path).build()) == [4, 5]


def test_file_alone_has_its_own_sha256_and_a_project_that_of_its_content_alone(tmp_path: Path) -> None:
    alone = tmp_path / "alone.py"
    alone.write_text("import os\nfrom torch import nn\nimport numpy.linalg\nimport yaml\n")
    (tmp_path / "numpy").mkdir()
    assert project.read(alone).sha256 == records.sha256_file(alone)
    here, there = (project.read(lay_out(tmp_path / name)).sha256 for name in ("here", "there/deeper"))
    assert here == there != records.sha256_file(tmp_path / "here" / "models" / "net.py")


def test_projects_with_modules_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    first, second = (named(lay_out(tmp_path / str(width), "models.blocks", width)) for width in (3, 7))
    for _ in range(2):
        assert widths(first.build()) == [3, 5]
        assert widths(second.build()) == [7, 5]
    assert type(first.build()[1]) is type(first.build()[1])


def test_module_of_the_same_name_in_this_process_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path / "other", width=9)
    monkeypatch.syspath_prepend(str(tmp_path / "other" / "models"))
    theirs = importlib.import_module("blocks")
    try:
        assert widths(named(lay_out(tmp_path / "own")).build()) == [3, 5]
        named(tmp_path / "other" / "models" / "net.py").build()
    finally:
        sys.modules.pop("blocks", None)
    assert theirs.WIDTH == 9


def test_compiled_file_of_an_older_content_is_not_run(tmp_path: Path) -> None:
    path = lay_out(tmp_path, width=3)
    module = path.parent / "blocks.py"
    stamp = module.stat()
    py_compile.compile(str(module))
    lay_out(tmp_path, width=4)
    os.utime(module, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert widths(named(path).build()) == [4, 5]


def test_module_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("from nowhere_at_all import block\n")
    with pytest.raises(
        UsageError, match=r"No module named 'nowhere_at_all'; looked for in /.*, and among what is inst"
    ):
        named(path).build()


def test_module_imported_while_the_network_runs_is_found_and_no_folder_is_taken_for_a_package(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    (tmp_path / "late.py").write_text("SCALE = 3.0\n")
    (tmp_path / "engines_of_mine").mkdir()
    lines = "class Net(nn.Linear):\n    def forward(self, x):\n        import late\n        return late.SCALE * x\n"
    path.write_text(f"from torch import nn\n{lines}def net(): return Net(1, 1)\n")
    model = named(path).build()
    assert model(torch.ones(1)).item() == 3.0
    assert importlib.util.find_spec("engines_of_mine") is None


def test_python_s_own_modules_are_not_the_project_s(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('the wrong one')")
    path = tmp_path / "net.py"
    path.write_text(NET.format(imports="import random", block="nn.Linear"))
    assert widths(named(path).build()) == [5]
    assert project.read(path).sha256 == records.sha256_file(path)


def test_installed_package_of_a_name_in_the_folder_above_is_not_the_project_s(tmp_path: Path) -> None:
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "net.py"
    path.write_text(NET.format(imports="import yaml", block="nn.Linear"))
    assert widths(named(path).build()) == [5]
    assert project.read(path).sha256 == records.sha256_file(path)
