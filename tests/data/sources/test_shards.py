"""WebDataset shards: what a pattern stands for, which members are a sample, and every way a shard can be wrong."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.data.sources.packed.shards import expanded
from nacdeploy.metrics import AGREEMENT
from nacdeploy.profile.tables.training import DataTable


def _png(level):
    content = io.BytesIO()
    Image.new("L", (5, 4), level).save(content, "PNG")
    return content.getvalue()


def _shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _samples(levels, label=lambda level: ("cls", str(level % 2).encode())):
    for level in levels:
        yield f"{level:04}.png", _png(level)
        if label is not None:
            suffix, content = label(level)
            yield f"{level:04}.{suffix}", content


def _load(argument, metric=None, **table):
    return data.load(f"wds:{argument}", DataTable(**table), *([metric] if metric else []))


def _levels(split):
    return sorted(split.whole()[:, 0, 0, 0].tolist())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}-{08..10}.tar", [f"{letter}-{n}.tar" for letter in "ab" for n in ("08", "09", "10")]),
        ("x-{9..11}", ["x-9", "x-10", "x-11"]),
        ("x-{0..1}{a,}", ["x-0a", "x-0", "x-1a", "x-1"]),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(pattern, names):
    assert expanded(pattern) == names


@pytest.mark.parametrize("pattern", ["x-{5..1}", "x-{0..999999999999}", "{0..9999}{0..9999}"])
def test_pattern_without_an_end_is_refused(pattern):
    with pytest.raises(UsageError, match=r"(range|shards)"):
        expanded(pattern)


def test_shards_are_read_by_split_with_their_labels(tmp_path):
    _shard(tmp_path / "train-000.tar", _samples(range(20)))
    _shard(tmp_path / "train-001.tar", _samples(range(20, 40)))
    _shard(tmp_path / "val-000.tar", _samples(range(40, 50)))
    for argument in (f"{tmp_path}/{{train-{{000..001}},val-000}}.tar", f"{tmp_path}", f"{tmp_path}/*.tar"):
        loaded = _load(argument)
        assert _levels(loaded.validation) == [*range(40, 50)]
        assert sorted(_levels(loaded.train) + _levels(loaded.test)) == [*range(40)]
        assert loaded.class_names == ("0", "1")
        for split in (loaded.train, loaded.validation, loaded.test):
            assert torch.equal(split.whole()[:, 0, 0, 0].long() % 2, split.labels)


def test_single_split_is_all_there_is(tmp_path):
    _shard(tmp_path / "val.tar", _samples(range(20)))
    loaded = _load(tmp_path / "val.tar")
    assert sorted(_levels(loaded.train) + _levels(loaded.validation) + _levels(loaded.test)) == [*range(20)]


def test_folder_of_a_shard_may_say_its_split(tmp_path):
    _shard(tmp_path / "train" / "000.tar", _samples(range(20)))
    _shard(tmp_path / "val" / "000.tar", _samples(range(20, 30)))
    assert _levels(_load(f"{tmp_path}/{{train,val}}/000.tar").validation) == [*range(20, 30)]


def test_shards_stay_on_disk_where_they_are_large(tmp_path):
    _shard(tmp_path / "train-000.tar", _samples(range(40)))
    small, large = _load(tmp_path), _load(tmp_path, in_memory_mib=0)
    assert not isinstance(large.train.images, torch.Tensor)
    assert torch.equal(large.train.whole(), small.train.whole())
    assert large.fingerprint == _load(tmp_path, in_memory_mib=0).fingerprint


@pytest.mark.parametrize(
    "label", [lambda n: ("json", json.dumps({"label": n % 2}).encode()), lambda n: ("cls", b"01"[n % 2 : n % 2 + 1])]
)
def test_labels_are_a_class_or_a_key_of_json(tmp_path, label):
    _shard(tmp_path / "a.tar", _samples(range(20), label))
    assert _load(tmp_path / "a.tar").train.labels.unique().tolist() == [0, 1]


def test_names_of_classes_are_sorted(tmp_path):
    _shard(tmp_path / "a.tar", _samples(range(20), lambda n: ("cls", (b"dog", b"cat")[n % 2])))
    loaded = _load(tmp_path / "a.tar")
    assert loaded.class_names == ("cat", "dog")


def test_shards_without_labels_are_unlabelled(tmp_path):
    _shard(tmp_path / "a.tar", _samples(range(20), None))
    assert not data.has_labels(f"wds:{tmp_path}/a.tar")
    loaded = _load(tmp_path / "a.tar", AGREEMENT, n_classes=3)
    assert not loaded.is_labelled
    with pytest.raises(UsageError, match="has no labels"):
        _load(tmp_path / "a.tar")


def test_broken_member_is_named_and_can_be_left_out(tmp_path):
    _shard(tmp_path / "a.tar", [*_samples(range(20)), ("bad.png", b"no image"), ("bad.cls", b"1")])
    with pytest.raises(UsageError, match=r"a\.tar:bad\.png is not a readable image"):
        _load(tmp_path / "a.tar")
    assert "a.tar:bad.png" in _load(tmp_path / "a.tar", broken="skip").notes[0]


def _link(path):
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in _samples(range(1, 12)):
            info = tarfile.TarInfo(f"../../{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_links_and_paths_of_members_lead_nowhere(tmp_path):
    _link(tmp_path / "a.tar")
    loaded = _load(tmp_path / "a.tar")
    assert sorted(_levels(loaded.train) + _levels(loaded.validation) + _levels(loaded.test)) == [*range(1, 12)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no shard"),
        (lambda path: path.write_bytes(b"x" * 2000), "is no plain tar file"),
        (lambda path: path.write_bytes(b""), "is no plain tar file|has no training images"),
        (lambda path: _shard(path, [("a.txt", b"text")]), r"sample 'a' holds no image \(txt\)"),
        (lambda path: _shard(path, [("a.cls", b"1")]), "sample 'a' holds no image"),
        (lambda path: _shard(path, [("a.png", _png(1)), ("a.jpg", _png(1))]), "has two images"),
        (
            lambda path: _shard(path, [*_samples(range(9)), ("z.png", _png(1))]),
            "z.png has no label, and others have one",
        ),
        (lambda path: _shard(path, _samples(range(0, 20, 2))), "one class only, '0'"),
        (lambda path: _shard(path, [("a.png", _png(1)), ("a.json", b"{")]), "a.json"),
        (lambda path: _shard(path, [("a.png", _png(1)), ("a.cls", b"1" * 600_000)]), "text_kib"),
    ],
)
def test_wrong_shard_is_one_line(tmp_path, make, message):
    make(tmp_path / "a.tar")
    with pytest.raises(UsageError, match=message):
        _load(tmp_path / "a.tar")


@pytest.mark.parametrize("n_bytes", [1100, 2000, 5 * 512 + 40])
def test_cut_off_shard_is_refused(tmp_path, n_bytes):
    _shard(tmp_path / "a.tar", _samples(range(20)))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:n_bytes])
    with pytest.raises(UsageError, match="cut off"):
        _load(tmp_path / "a.tar")


def test_other_shards_of_the_real_writer_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=8, verbose=0) as writer:
        for level in range(20):
            image = Image.new("RGB", (5, 4), (level, 0, 0))
            writer.write({"__key__": f"{level:05}", "png": image, "cls": level % 2})
    loaded = _load(f"{tmp_path}/train-{{000..002}}.tar")
    assert sorted(_levels(loaded.train) + _levels(loaded.validation) + _levels(loaded.test)) == [*range(20)]
