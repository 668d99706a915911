"""Whose code is run: a user's file runs where this user named it in this content, and nowhere else."""

from pathlib import Path

import pytest

from nacdeploy import models
from nacdeploy.base.errors import UsageError
from nacdeploy.models import ModelSpec
from nacdeploy.models.users import trust

EVIL = "from pathlib import Path\nPath('RUN').touch()\nfrom torch import nn\ndef make(): return nn.Linear(1, 1)\n"


@pytest.fixture(autouse=True)
def another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user has named nothing yet."""
    monkeypatch.setenv(trust.VARIABLE, str(tmp_path / "config"))
    monkeypatch.setattr(trust, "_accepted", set())
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    return tmp_path


def spec(name: str = "evil.py:make") -> ModelSpec:
    return models.resolve(name, n_classes=2, channels=1, input_size=(1, 1))


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process of the same user."""
    monkeypatch.setattr(trust, "_accepted", set())


def test_file_that_nobody_named_is_not_run() -> None:
    with pytest.raises(UsageError, match=r"evil\.py is code that only a record names.*pass --model evil\.py:make if"):
        spec().build()
    assert not Path("RUN").exists()


def test_named_file_runs_here_and_in_later_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    models.name_by_user("evil.py:make")
    later(monkeypatch)
    spec().build()
    assert Path("RUN").exists()


def test_changed_file_or_module_is_not_run_until_it_is_named_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net.py").write_text("import helper\nfrom torch import nn\ndef make(): return nn.Linear(1, 1)\n")
    Path("helper.py").write_text("")
    models.name_by_user("net.py:make")
    spec("net.py:make").build()
    Path("helper.py").write_text(EVIL)
    with pytest.raises(UsageError, match="only a record names"):
        spec("net.py:make").build()
    assert not Path("RUN").exists()


def test_same_content_elsewhere_is_not_run() -> None:
    models.name_by_user("evil.py:make")
    Path("copy.py").write_text(EVIL)
    with pytest.raises(UsageError, match="only a record names"):
        spec("copy.py:make").build()
    assert not Path("RUN").exists()


def test_settings_are_in_the_user_s_own_folder(another_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(trust.VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(another_user / "xdg"))
    models.name_by_user("evil.py:make")
    assert len(list(Path("xdg/nacdeploy/trusted").iterdir())) == 1


def test_worker_runs_what_its_driver_runs_and_notes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    models.accept_here("evil.py:make", "0" * 64)
    with pytest.raises(UsageError, match="only a record names"):
        spec().build()
    models.accept_here("evil.py:make", spec().source_sha256)
    spec().build()
    later(monkeypatch)
    with pytest.raises(UsageError, match="only a record names"):
        spec().build()


def test_settings_that_cannot_be_written_hold_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv(trust.VARIABLE, "file/below")
    models.name_by_user("evil.py:make")
    spec().build()
    assert Path("RUN").exists()


def test_file_is_found_by_its_content_from_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    models.name_by_user("evil.py:make")
    made = spec()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    Path("evil.py").write_text("raise RuntimeError('another file of this name')")
    assert made.located == f"{Path.cwd().parent / 'evil.py'}:make"
    made.build()
