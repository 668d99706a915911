"""The store: bytes by key within a budget, from several processes at once, with kills, full disks and odd places."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from nacdeploy.base.errors import NacdeployError
from nacdeploy.strategies.memory.places import OLD_S
from nacdeploy.strategies.memory.store import Store


def key(n: int, kind: str = "training-{}.json.zst") -> str:
    return kind.format(f"{n:032x}")


def needed(n: int) -> str:
    return key(n, "tensors-{}.safetensors")


@pytest.fixture(params=["folder", "file", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"folder": f"{tmp_path}/a/b", "file": f"file://{tmp_path}/c", "memory": f"memory://{uuid4()}/d"}[
        request.param
    ]


def n_bytes(store: Store) -> int:
    return sum(item.n_bytes for item in store.items())


def test_kept_bytes_are_there_for_every_process_that_opens_the_place(location: str) -> None:
    store = Store.open(location, 100)
    assert store.put(key(1), b"one")
    again = Store.open(store.location, 100)
    assert (again.get(key(1)), again.get(key(2))) == (b"one", None)


def test_dropped_key_is_gone_and_may_be_dropped_again(location: str) -> None:
    store = Store.open(location, 100)
    store.put(key(1), b"one")
    store.touch([key(1)])
    for _ in range(2):
        store.drop(key(1))
        assert (store.get(key(1)), store.items(), store.touch([key(1)])) == (None, [], {key(1)})


def test_key_written_again_holds_the_last_bytes(location: str) -> None:
    store = Store.open(location, 100)
    for data in (b"one", b"two and more"):
        store.put(key(1), data)
    assert (store.get(key(1)), n_bytes(store)) == (b"two and more", 12)


def test_budget_is_kept_and_what_was_not_used_for_longest_goes_first(location: str) -> None:
    store = Store.open(location, 100)
    for n in range(9):
        store.put(key(n), bytes(10))
        time.sleep(0.002)
    store.touch([key(0)])
    store.put(key(9), bytes(30))
    held = {item.key for item in store.items()}
    assert n_bytes(store) <= 100
    assert {key(0), key(9)} <= held
    assert key(1) not in held


def test_use_by_another_process_counts(location: str) -> None:
    store, other = Store.open(location, 100), Store.open(location, 100)
    for n in range(9):
        store.put(key(n), bytes(10))
        time.sleep(0.002)
    other.touch([key(0)])
    store.put(key(9), bytes(30))
    assert store.get(key(0)) is not None
    assert store.get(key(1)) is None


def test_what_is_needed_goes_after_what_needs_it(location: str) -> None:
    store = Store.open(location, 100)
    store.put(needed(0), bytes(40))
    for n in range(4):
        store.put(key(n), bytes(10))
        store.touch([key(n), needed(0)])
        time.sleep(0.002)
    for n in range(4, 12):
        store.put(key(n), bytes(10))
        users = [key(i) for i in range(4) if store.get(key(i)) is not None]
        assert not users or store.get(needed(0)) is not None


def test_what_is_to_be_kept_is_not_evicted_for_what_needs_it(location: str) -> None:
    store = Store.open(location, 100)
    store.put(needed(0), bytes(60))
    assert not store.put(key(1), bytes(50), keep=[needed(0)])
    assert store.get(needed(0)) is not None
    assert store.put(key(1), bytes(50))
    assert store.get(needed(0)) is None


def test_more_than_the_budget_is_not_kept_and_said_once(location: str) -> None:
    said: list[str] = []
    store = Store.open(location, 100, said.append)
    assert not store.put(key(1), bytes(101))
    assert not store.put(key(1), bytes(200))
    assert len(said) == 1
    assert "search.cache_gib" in said[0]


def test_bytes_of_other_processes_count_against_the_budget(location: str) -> None:
    store, other = Store.open(location, 1000), Store.open(location, 1000)
    for n in range(40):
        (store, other)[n % 2].put(key(n), bytes(50))
        assert n_bytes(store) <= 1050
    store.put(key(99), bytes(50))
    assert n_bytes(store) <= 1000


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    foreign = [tmp_path / "notes.txt", tmp_path / "sub" / key(1), tmp_path / "model.safetensors"]
    (tmp_path / "sub").mkdir()
    for path in foreign:
        path.write_bytes(bytes(500))
    store = Store.open(tmp_path, 100)
    for n in range(30):
        store.put(key(n), bytes(10))
    assert all(path.stat().st_size == 500 for path in foreign)
    assert n_bytes(store) <= 100


def test_old_temporary_file_of_a_killed_process_is_swept_and_a_young_one_is_not(tmp_path: Path) -> None:
    old, young = tmp_path / f".{key(1)}.1-a.partial", tmp_path / f".{key(2)}.1-b.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    past = time.time() - OLD_S - 60
    os.utime(old, (past, past))
    assert Store.open(tmp_path, 100).items() == []
    assert (old.exists(), young.exists()) == (False, True)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_said_once_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store.open(tmp_path, 10**9, said.append)
    with files_of_at_most(10_000):
        assert store.put(key(1), bytes(5_000))
        assert not any(store.put(key(n), bytes(50_000)) for n in (2, 3))
    assert [path.name for path in tmp_path.iterdir()] == [key(1)]
    assert len(said) == 1
    assert "cannot be written (File too large)" in said[0]
    assert store.put(key(2), bytes(50_000))


def test_folder_that_vanishes_costs_no_error(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store.open(tmp_path / "gone", 10**9, said.append)
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("a file now")
    assert (store.put(key(1), b"x"), store.get(key(1)), store.drop(key(1))) == (False, None, None)
    assert 1 <= len(said) <= 3


@pytest.mark.parametrize("where", ["FILE/sub", "nosuch://bucket/path", "s3://bucket/path", "/proc/nothing/here"])
def test_place_that_cannot_be_reached_is_one_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NacdeployError, match=r"the cache .* cannot be opened .*--cache") as caught:
        Store.open(where.replace("FILE", str(tmp_path / "file")), 100)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_two_threads_writing_one_key_leave_one_whole_file(tmp_path: Path) -> None:
    wanted = [bytes([n]) * 200_000 for n in range(4)]

    def write(data: bytes) -> None:
        store = Store.open(tmp_path, 10**9)
        for _ in range(20):
            store.put(key(1), data)

    threads = [threading.Thread(target=write, args=(data,)) for data in wanted]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        seen.add(Store.open(tmp_path, 10**9).get(key(1)))
    for thread in threads:
        thread.join()
    seen.add(Store.open(tmp_path, 10**9).get(key(1)))
    assert seen <= {None, *wanted}
    assert len(list(tmp_path.iterdir())) == 1


WRITER = """
import sys
from nacdeploy.strategies.memory.store import Store
store, n = Store.open(sys.argv[1], 3_000_000), 0
print("ready", flush=True)
while True:
    n += 1
    for kind in ("training-%032x.json.zst", "tensors-%032x.safetensors"):
        store.put(kind % (n % 20), bytes([n % 251]) * 300_000)
"""


def test_killed_writers_leave_whole_files_only(tmp_path: Path) -> None:
    for delay_s in (0.02, 0.1, 0.2):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay_s)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        store = Store.open(tmp_path, 3_000_000)
        held = [store.get(item.key) or b"" for item in store.items()]
        assert held
        assert all(len(data) == 300_000 and len(set(data)) == 1 for data in held)
    for path in tmp_path.glob(".*.partial"):
        os.utime(path, (0, 0))
    store = Store.open(tmp_path, 3_000_000)
    assert not list(tmp_path.glob(".*.partial"))
    assert store.put(key(1), b"x")
    assert n_bytes(store) <= 3_000_000
