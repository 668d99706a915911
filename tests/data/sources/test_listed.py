"""Image files that a table names."""

import pytest
import torch
from PIL import Image

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.training import DataTable


def save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)


def levels(split):
    return sorted(split.images[:, 0, 0, 0].tolist())


@pytest.fixture
def listed(tmp_path):
    """Writes a CSV beside twenty images; gives the data set's name."""
    for level in range(20):
        save(tmp_path / "images" / f"{level}.png", level)

    def write(line=lambda level: f"images/{level}.png,{('cat', 'dog')[level % 2]}", head="path,label"):
        (tmp_path / "list.csv").write_text("\n".join([head, *map(line, range(20))]))
        return f"csv:{tmp_path / 'list.csv'}"

    return write


def test_csv_names_files_from_its_folder_and_classes_in_order(listed):
    loaded = data.load(listed(), DataTable())
    assert loaded.class_names == ("cat", "dog")
    for split in (loaded.train, loaded.validation, loaded.test):
        assert (split.images[:, 0, 0, 0] % 2).tolist() == split.labels.tolist()
    found = [level for s in (loaded.train, loaded.validation, loaded.test) for level in levels(s)]
    assert sorted(found) == [*range(20)]


def test_csv_keeps_the_splits_that_it_names(listed):
    name = listed(
        lambda level: f"images/{level}.png,{level % 2},{('train', 'Val', 'TEST')[level // 8]}", "path,label,split"
    )
    loaded = data.load(name, DataTable())
    assert [levels(s) for s in (loaded.train, loaded.validation, loaded.test)] == [
        [*range(8)],
        [*range(8, 16)],
        [*range(16, 20)],
    ]


@pytest.mark.parametrize(
    ("line", "head", "message"),
    [
        (lambda level: f"{level}.png,{level % 2}", "path,label", "line 2: there is no file"),
        (lambda level: f"images/{level}.png,{level % 2}", "file,class", "has no column 'path'"),
        (lambda level: f"images/{level}.png,", "path,label", "line 2: path or label is empty"),
        (lambda level: f"images/{level}.png,one", "path,label", "names 1 class"),
        (lambda level: f"images/{level}.png,{level % 2},maybe", "path,label,split", "split 'maybe' is none of train"),
        (lambda level: f"images/{level}.png,{level % 2},val", "path,label,split", "has no training images"),
    ],
)
def test_csv_that_is_wrong_is_refused_by_line(line, head, message, listed):
    with pytest.raises(UsageError, match=message):
        data.load(listed(line, head), DataTable())


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"\xff\xfe\x00", b"path,label\na.png,\x00"])
def test_csv_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UsageError, match=r"list\.csv"):
        data.load(f"csv:{tmp_path / 'list.csv'}", DataTable())


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path):
    for level in range(12):
        label = f"n{level % 2}"
        save(tmp_path / "train" / label / "images" / f"{level}.JPEG", 100)
        save(tmp_path / "val" / "images" / f"val_{level}.JPEG", 20 * level)
    lines = [f"val_{level}.JPEG\tn{level % 2}\t0\t0\t62\t62" for level in range(12)]
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    loaded = data.load(f"tiny-imagenet:{tmp_path}", DataTable())
    assert loaded.class_names == ("n0", "n1")
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [10, 2, 12]
    brightness = loaded.test.images.float().mean((1, 2, 3))
    assert torch.equal((brightness / 20).round().long() % 2, loaded.test.labels)


def test_tiny_imagenet_that_is_none_is_refused(tmp_path):
    for name in ("tiny-imagenet", f"tiny-imagenet:{tmp_path}"):
        with pytest.raises(UsageError, match=r"val/val_annotations\.txt: tiny-imagenet:PATH"):
            data.load(name, DataTable())
