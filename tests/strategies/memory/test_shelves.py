"""The shelves of trainings under way: one folder, made when it is needed and gone when the results are safe."""

from pathlib import Path

import pytest

from nacdeploy.strategies.memory.shelves import Shelves
from nacdeploy.task.loop import unfinished


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "EVERY_S", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))


def shelves(root: Path, budget_bytes: int = 2**20) -> Shelves:
    return Shelves(root, budget_bytes)


def test_folder_is_there_only_while_something_is_kept(tmp_path: Path) -> None:
    mine, root = shelves(tmp_path / "unfinished"), tmp_path / "unfinished"
    assert mine.unfinished("key").state() is None and not root.exists()
    mine.unfinished("key").keep({"epoch": 3})
    state = shelves(root).unfinished("key").state()
    assert state is not None and state["epoch"] == 3
    mine.close()
    assert not root.exists()


def test_close_leaves_the_trainings_of_others(tmp_path: Path) -> None:
    mine, others = shelves(tmp_path / "unfinished"), shelves(tmp_path / "unfinished")
    mine.unfinished("mine").keep({"epoch": 1})
    others.unfinished("theirs").keep({"epoch": 2})
    mine.close()
    assert shelves(tmp_path / "unfinished").unfinished("mine").state() is None
    assert (others.unfinished("theirs").state() or {})["epoch"] == 2


def test_least_recently_kept_go_where_they_take_too_much(tmp_path: Path) -> None:
    mine = shelves(tmp_path / "unfinished", 40_000)
    for number in range(8):
        mine.unfinished(f"training {number}").keep({"text": "x" * 5_000})
    files = [*(tmp_path / "unfinished").iterdir()]
    assert 0 < sum(file.stat().st_size for file in files) <= 40_000
    assert mine.unfinished("training 0").state() is None and mine.unfinished("training 7").state() is not None


def test_place_that_cannot_be_made_is_said_and_no_training_ends_by_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    mine = Shelves(tmp_path / "file" / "unfinished", 2**20, said.append)
    mine.unfinished("key").keep({"epoch": 1})
    (line,) = said
    assert line.startswith("the training is not kept while it is under way: ") and "\n" not in line
    mine.close()
