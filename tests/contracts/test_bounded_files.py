"""Files that say more than they hold, or hold more than they say: refused before memory is taken, in a line."""

import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_world
import numpy as np
import onnx
import pytest
import torch
import zstandard
from command_line import files, refused_line, run, succeed
from PIL import Image
from safetensors.torch import save_file

from nacdeploy import data
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.coding import container
from nacdeploy.coding import files as coded_files
from nacdeploy.data import pictures
from nacdeploy.models import weights
from nacdeploy.profile.tables.training import DataTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.memory.entries import Entries, entry_name
from nacdeploy.strategies.memory.store import Store
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.steps import checkpoint

MIB = 2**20


def at_most(n_mib: int, call: Callable[[], Any], error: type[Exception] = NacdeployError) -> str:
    """The line of a refusal that takes no more than so much memory above what is taken now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + n_mib * MIB, hard))
    try:
        with pytest.raises(error) as caught:
            call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return str(caught.value)


def bomb(n_bytes: int) -> bytes:
    """zstd data that become so many zeros."""
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=True).compressobj(size=n_bytes)
    parts = [compressor.compress(bytes(16 * MIB)) for _ in range(n_bytes // (16 * MIB))]
    return b"".join((*parts, compressor.flush()))


@pytest.fixture(scope="module")
def three_gib() -> bytes:
    return bomb(3 * 1024 * MIB)


def decoded(path: Path) -> None:
    with container.Reader(path) as reader:
        for entry in reader.header.files:
            reader.file(entry)


def written(path: Path, header: Any, *parts: bytes) -> Path:
    """A container of any header, with the right length and checksum."""
    text = json.dumps(header).encode()
    path.write_bytes(b"".join((struct.pack("<7sBQI", b"NACCODE", 1, len(text), zlib.crc32(text)), text, *parts)))
    return path


def entry(method: str, shape: list[int], parts: tuple[bytes, ...], **details: Any) -> dict[str, Any]:
    sizes, crc32 = [len(part) for part in parts], zlib.crc32(b"".join(parts))
    about = {"name": "", "dtype": "U8", "shape": shape, "start": 0, "method": method, "parts": sizes, "crc32": crc32}
    return {**about, "details": details}


def one_file(path: str, rest: dict[str, Any], n_bytes: int) -> dict[str, Any]:
    return {"path": path, "n_bytes": n_bytes, "rest": rest, "tensors": []}


def test_zstd_frame_behind_an_entry_of_few_bytes_is_not_unpacked(tmp_path: Path, three_gib: bytes) -> None:
    rest = entry("zstd", [5], (three_gib,), n_bytes=5)
    path = written(tmp_path / "a.nac", {"files": [one_file("a", rest, 5)]}, three_gib)
    assert "more than the 5 bytes that it says" in at_most(400, lambda: decoded(path))


def test_container_that_says_it_becomes_too_much_is_refused(tmp_path: Path, three_gib: bytes) -> None:
    rest = entry("zstd", [3 * 2**30], (three_gib,), n_bytes=3 * 2**30)
    path = written(tmp_path / "a.nac", {"files": [one_file("a", rest, 3 * 2**30)]}, three_gib)
    said = at_most(400, lambda: decoded(path))
    assert "unpacked_mib" in said
    assert "NACDEPLOY_LIMITS" in said


@pytest.mark.parametrize(
    "change",
    [
        {"run_bits": 2**40},
        {"n": 10**12},
        {"n_runs": 10**12},
        {"n_values": 10**12},
        {"width": 60},
        {"shift": 7},
        {"item_bytes": 3},
        {"runs": "@@@"},
    ],
)
def test_absurd_number_of_a_coding_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    save_file({"w": torch.randint(-3, 4, (4000,), dtype=torch.int8)}, tmp_path / "m.safetensors")
    container.write(tmp_path / "m.nac", coded_files.cut(tmp_path / "m.safetensors"))
    content = (tmp_path / "m.nac").read_bytes()
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[20 : 20 + length])
    row = header["files"][0]["tensors"][0]
    assert row["method"] in ("huffman", "plain")
    row["details"] |= change
    path = written(tmp_path / "b.nac", header, content[20 + length :])
    assert "the header of" in at_most(300, lambda: decoded(path))


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "a/b"), ("../a",), ("/a",), ("",), ("a//b",), ("a/./b",), ("x" * 300,)]
)
def test_files_that_cannot_all_be_restored_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    rest = entry("raw", [1], (b"x",), n_bytes=1)
    path = written(tmp_path / "a.nac", {"files": [one_file(name, rest, 1) for name in names]}, *[b"x"] * len(names))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(NacdeployError, match=r"twice|as a folder|outside|can be called so"):
        decoded(path)
    refused_line(run("decode", path, "--out", tmp_path / "out"))
    assert set(tmp_path.rglob("*")) == before


def test_what_decode_could_not_restore_is_not_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, outside = tmp_path / "folder", tmp_path / "secret"
    outside.mkdir()
    (outside / "key").write_text("secret")
    for prepare, said in (
        (lambda: (folder / "link").symlink_to(outside / "key"), "leads out of"),
        (lambda: (folder / "link").symlink_to(outside), "leads out of"),
        (lambda: (folder / "link").symlink_to("nowhere"), "link to no file"),
        (lambda: os.mkfifo(folder / "pipe"), "no regular file"),
        (lambda: Path(os.fsdecode(bytes(folder) + b"/\xff")).write_text("x"), "half a character"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "a").write_text("a")
        prepare()
        assert said in refused_line(run("encode", folder, "--out", "out.nac"))
        assert not Path("out.nac").exists()


def test_link_within_a_folder_is_encoded_as_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").symlink_to("a")
    assert [each.data for each in coded_files.cut(tmp_path)] == [b"a", b"a"]


def test_deflated_archive_of_weights_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
        with packed.open("archive/data/9", "w", force_zip64=True) as file:
            for _ in range(20):
                file.write(bytes(16 * MIB))
    assert "unpacked_mib" in at_most(250, lambda: weights.read_tensors(tmp_path / "bomb.pt"), UsageError)


def test_cache_entry_that_unpacks_without_end_is_dropped(tmp_path: Path, three_gib: bytes) -> None:
    said: list[str] = []
    entries = Entries(store := Store.open(tmp_path, 2**30), said.append)
    store.put(entry_name("metrics", "key"), three_gib)
    assert entries.read("metrics", "key", lambda data: data) is None
    assert len(said) == 1
    assert store.get(entry_name("metrics", "key")) is None


def test_image_of_a_hundred_thousand_pixels_a_side_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (10, 10)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 15_000, 15_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    assert "pixels" in at_most(200, lambda: pictures.read(path, None), UsageError)


def test_folder_of_images_with_a_pipe_and_links_in_a_circle_ends(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(9):
            Image.new("L", (4, 4), number).save(tmp_path / label / f"{number}.png")
    for name in ("around", "again"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
        (tmp_path / "b" / name).symlink_to(tmp_path / "a")
    assert len(data.load(f"folder:{tmp_path}", DataTable()).train.labels) > 9
    os.mkfifo(tmp_path / "a" / "z.png")
    with pytest.raises(UsageError, match=r"z\.png is no regular file"):
        data.load(f"folder:{tmp_path}", DataTable())


def test_arrays_that_say_more_than_they_hold_are_not_unpacked(tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((30, 4500, 4500), np.uint8), labels=labels)
    assert "unpacks to" in at_most(200, lambda: data.load(f"npz:{tmp_path / 'a.npz'}", DataTable()), UsageError)
    images = np.zeros((30, 4, 4), np.uint8)
    np.savez(tmp_path / "b.npz", images=images, labels=labels + np.where(labels == 2, 10**12, 0))
    assert "classes are numbered from 0" in at_most(
        200, lambda: data.load(f"npz:{tmp_path / 'b.npz'}", DataTable()), UsageError
    )
    np.save(tmp_path / "labels.npy", labels)
    os.mkfifo(tmp_path / "images.npy")
    with pytest.raises(UsageError, match="no regular file"):
        data.load(f"npy:{tmp_path}", DataTable())


def test_chain_of_a_million_letters_is_refused_in_a_short_line() -> None:
    with pytest.raises(UsageError) as caught:
        Chain.parse("P" * 1_000_000)
    assert len(str(caught.value)) < 300


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return hostile_world.make(tmp_path / "world")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"width": 20_000.0}, "network_mib"),
        ({"n_classes": 10_000_000}, "network_mib"),
        ({"input_size": [100_000, 100_000]}, "network_pixels"),
        ({"n_classes": 0}, "n_classes"),
        ({"input_size": [8, -8]}, "input_size"),
    ],
)
def test_absurd_network_of_a_checkpoint_is_not_built(model: dict[str, Any], said: str, world: Path) -> None:
    path = world / hostile_world.CHECKPOINT / "checkpoint.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "model": {**data["model"], **model}}))
    assert said in at_most(1024, lambda: checkpoint.load(path.parent), UsageError)


@pytest.mark.parametrize(
    ("letter", "change", "said"),
    [
        ("P", lambda d: d["cut"]["slices"][0]["kept"].append(10_000), "outside of 0 to"),
        ("P", lambda d: d["cut"]["slices"][0]["kept"].append(0), "twice"),
        ("P", lambda d: d["cut"]["slices"][0].update(axis=9), "which the model lacks"),
        ("P", lambda d: d["cut"]["slices"][0].update(tensor="backbone.forward"), "which the model lacks"),
        ("P", lambda d: d["cut"]["attributes"][0].update(name="forward"), "no size of the model"),
        ("P", lambda d: d["cut"]["attributes"][0].update(value=10**9), "no size of the model"),
        ("Q", lambda d: d["layers"].append("stem.77"), "'stem.77', which the model lacks"),
        ("Q", lambda d: d["rule"].update(weights="evil"), "are not known"),
        ("S", lambda d: d["layers"].append("nothing"), "which the model lacks"),
        ("S", lambda d: d["rule"].update(pattern="1:7"), "is not known"),
        ("E", lambda d: d["exits"][0].update(node="nowhere"), "which the model lacks"),
        ("E", lambda d: d["exits"][0].update(shape=[10**6, 10**6, 10**6]), "other shapes"),
        ("E", lambda d: d.update(n_classes=10**9), "classes apart"),
    ],
)
def test_altered_decision_is_named_before_it_is_performed(
    letter: str, change: Callable[[dict[str, Any]], object], said: str, world: Path
) -> None:
    path = world / hostile_world.CHECKPOINT / "checkpoint.json"
    data = json.loads(path.read_text())
    change(next(step for step in data["steps"] if step["link"].startswith(letter))["decision"])
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"step \d \(.*does not fit the model") as caught:
        checkpoint.load(path.parent)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"chain": "@@@"},
        {"figures": {"accuracy": 5.0}},
        {"figures": {"accuracy": float("nan")}},
        {"figures": {"bitops_ratio": float("inf")}},
        {"figures": {"bitops_ratio": 1e308}},
        {"figures": {"bytes_ratio": -1.0}},
        {"unknown": 1},
    ],
)
def test_row_of_a_journal_that_cannot_be_is_named(change: dict[str, Any], world: Path) -> None:
    path = world / "runs/killed/journal.jsonl"
    first, second, *rest = path.read_text().splitlines()
    row = json.loads(second)
    row |= {key: {**row["figures"], **value} if key == "figures" else value for key, value in change.items()}
    path.write_text("\n".join([first, json.dumps(row), *rest, ""]))
    with pytest.raises(UsageError, match="line 2"):
        journal.read(path)


def test_unknown_table_and_schema_of_a_strategy_are_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    path = Path("runs/followed/strategy.json")
    data = json.loads(path.read_text())
    for change, said in (
        ({"schema": 99}, "has schema 99"),
        ({"orgin": {}}, "unknown key 'orgin'; did you mean 'origin'?"),
        ({"settings": {"pruen": {}}}, "did you mean 'prune'?"),
    ):
        path.write_text(json.dumps({**data, **change}))
        assert said in refused_line(run("transfer", "--strategy", path, "--dry-run"))


def test_values_in_another_file_are_not_read(home: Path) -> None:
    folder = Path("runs/export-ort-1")
    (folder / "secret").write_bytes(bytes(10_000))
    model = onnx.load(folder / "model.onnx")
    tensor = next(each for each in model.graph.initializer if len(each.raw_data) > 64)
    held = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("length", str(held))):
        tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = files()
    for command in ("verify", "explain", "bench"):
        assert "from another file, which has no hash" in refused_line(run(command, folder))
    assert files() - before <= set(Path("runs/baselines").rglob("*"))


def test_search_whose_folder_is_removed_does_not_end_well(home: Path) -> None:
    with journal.Journal.open(Path("gone/journal.jsonl"), {}) as opened:
        shutil.rmtree("gone")
        with pytest.raises(NacdeployError, match="was removed while the search wrote it"):
            opened.append(journal.failed(Chain.parse("P"), "x"))


TERMINATED = """
import os, signal, sys, threading
sys.argv = ["nacdeploy", "train", "--out", "out", "--epochs", "100000"]
from nacdeploy.sessions import session
def report(*given):
    return lambda *epoch: os.kill(os.getpid(), signal.SIGTERM)
session.epoch_report = report
from nacdeploy.cli.main import main
main()
"""


def test_command_that_is_told_to_end_leaves_in_a_line_and_nothing_behind(home: Path) -> None:
    shutil.rmtree("runs/baselines")
    before = files()
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (143, "error: told to end; what was finished is kept")
    assert files() == before


def test_next_run_removes_what_a_killed_one_left(home: Path) -> None:
    left, young, held = (Path(f".nacdeploy-{name}.abcdefgh") for name in ("old", "young", "held"))
    for folder in (left, young, held):
        folder.mkdir()
        (folder / "x").write_text("x")
    os.utime(left, (0, 0))
    succeed("encode", "tiny.toml", "--out", "a.nac")
    succeed("decode", "a.nac", "--out", "out")
    assert (left.exists(), young.exists()) == (False, True)


def test_metrics_that_cannot_be_are_named(world: Path) -> None:
    path = world / hostile_world.CHECKPOINT / "checkpoint.json"
    data = json.loads(path.read_text())
    for change, said in (({"accuracy": 5.0}, "accuracy is 5"), ({"n_images": -1}, "cannot be")):
        path.write_text(json.dumps({**data, "metrics": {**data["metrics"], **change}}))
        with pytest.raises(UsageError, match=said):
            checkpoint.read_record(path.parent)
    path.write_text(json.dumps({**data, "chain": f"{data['chain']}P"}))
    with pytest.raises(UsageError, match="and its steps are"):
        checkpoint.read_record(path.parent)
