"""Folders of results: reserved when they are chosen, written whole or not at all, and nothing in them is removed."""

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from nacdeploy.base import folders
from nacdeploy.base.errors import NacdeployError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, name: str = "a") -> None:
    with folders.new_directory(path) as directory:
        (directory / name).write_text(name)


def number(root: Path) -> AbstractContextManager[Path]:
    return folders.numbered(lambda n: root / f"run-{n}")


def test_new_directory_appears_whole(tmp_path: Path) -> None:
    with folders.new_directory(tmp_path / "out") as directory:
        (directory / "a").write_text("a")
        assert names(tmp_path / "out") == []
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_new_directory_leaves_nothing_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folders.new_directory(tmp_path / "above" / "out") as directory:
        (directory / "a").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_new_directory_refuses_one_that_holds_something(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    with pytest.raises(NacdeployError, match="exists already"):
        fill(tmp_path / "out", "b")
    assert names(tmp_path / "out") == ["a"]


def test_new_directory_replaces_when_asked(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with folders.new_directory(tmp_path / "out", replace=True) as directory:
            (directory / text).write_text(text)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_joined_directory_leaves_what_else_lies_there(tmp_path: Path) -> None:
    fill(tmp_path / "out", "other")
    for text in ("first", "second"):
        with folders.joined_directory(tmp_path / "out") as directory:
            (directory / "ours").write_text(text)
    assert names(tmp_path / "out") == ["other", "ours"]
    assert (tmp_path / "out" / "ours").read_text() == "second"


@pytest.mark.parametrize("kind", ["empty", "link", "current", "volume", "left by a kill"])
def test_folder_that_is_there_is_filled_in_place(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, place = tmp_path / "real", tmp_path / "real"
    real.mkdir(mode=0o750)
    before = real.stat()
    if kind == "link":
        place = tmp_path / "link"
        place.symlink_to("real")
    elif kind == "current":
        monkeypatch.chdir(real)
        place = Path()
    elif kind == "volume":
        (real / "lost+found").mkdir()
    elif kind == "left by a kill":
        (real / ".nacdeploy-x").mkdir()
        (real / ".nacdeploy-x" / "half").write_text("half")
    fill(place)
    expected = ["a", "lost+found"] if kind == "volume" else ["a"]
    assert names(real) == expected
    assert (real.stat().st_ino, real.stat().st_mode) == (before.st_ino, before.st_mode)
    assert place.is_symlink() == (kind == "link")


def test_reserved_folder_is_refused_to_another_run_until_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folders.reserved(out):
        with pytest.raises(NacdeployError, match="is being written by another run; choose another --out"):
            _in_child(lambda: fill(out))
        fill(out, "ours")
    assert names(out) == ["ours"]


def test_numbers_are_given_once_though_nothing_is_written_yet(tmp_path: Path) -> None:
    with ExitStack() as stack:
        given = [stack.enter_context(number(tmp_path)) for _ in range(3)]
        assert [path.name for path in given] == ["run-1", "run-2", "run-3"]
        _in_child(lambda: fill_numbered(tmp_path))
        fill(given[1])
    assert names(tmp_path) == ["run-2", "run-4"]
    fill_numbered(tmp_path)
    assert names(tmp_path) == ["run-1", "run-2", "run-4"]


def fill_numbered(root: Path) -> None:
    with number(root) as place:
        fill(place)


def test_run_that_was_killed_blocks_neither_its_number_nor_its_folder(tmp_path: Path) -> None:
    def reserve_and_die() -> None:
        with number(tmp_path), folders.reserved(tmp_path / "out"):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError):
        _in_child(reserve_and_die)
    assert names(tmp_path) == ["out", "run-1"]
    fill_numbered(tmp_path)
    fill(tmp_path / "out")
    assert [names(tmp_path / name) for name in names(tmp_path)] == [["a"], ["a"]]


def test_what_appears_meanwhile_is_never_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folders.reserved(out), folders.new_directory(out) as directory:
        (directory / "ours").write_text("ours")
        (out / "theirs").write_text("theirs")
    assert names(out) == ["ours", "theirs"]


def test_result_is_kept_beside_what_stands_in_its_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(NacdeployError, match=r"was filled by something else meanwhile; .* lies in .*/out-kept-1"),
        folders.new_directory(out) as directory,
    ):
        (directory / "same").write_text("ours")
        (out / "same").write_text("theirs")
    assert (out / "same").read_text() == "theirs"
    assert (tmp_path / "out-kept-1" / "same").read_text() == "ours"


@pytest.mark.parametrize("place", ["/proc/nacdeploy/out", "/proc/self"])
def test_place_that_cannot_be_written_is_one_line_before_the_work(place: str) -> None:
    with pytest.raises(NacdeployError, match=r"cannot write|exists already"), folders.reserved(Path(place)):
        pytest.fail("the place is not proven")


@pytest.mark.parametrize("below", ["", "below", "below/deeper"])
def test_file_where_a_folder_is_needed_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NacdeployError, match=r"file exists already|file is a file"):
        fill(tmp_path / "file" / below)
    assert names(tmp_path) == ["file"]


def _in_child(work: Callable[[], None]) -> None:
    """Run something in another process; what it raises of ours is raised here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            folders._held.clear()  # another process has reserved nothing
            work()
        except NacdeployError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode()
    if text:
        raise NacdeployError(text)
    if status:
        raise ChildProcessError(status)
