"""Hugging Face data sets on disk, written by the real package."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nacdeploy import data
from nacdeploy.base.errors import MissingExtraError, UsageError
from nacdeploy.metrics import AGREEMENT
from nacdeploy.profile.tables.training import DataTable


def _load(argument, metric=None, **table):
    return data.load(f"hf:{argument}", DataTable(**table), *([metric] if metric else []))


def test_missing_package_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingExtraError, match=r"data set 'hf:.*' needs the package 'datasets': pip install 'nacdeploy\[hf\]'"
    ):
        _load(tmp_path)


@pytest.fixture
def hf():
    return pytest.importorskip("datasets")


def _made(hf, levels, label=lambda level: level % 2, names=("cat", "dog")):
    rows = {"image": [Image.new("L", (5, 4), level) for level in levels]}
    features = {"image": hf.Image()}
    if label is not None:
        rows["label"] = [label(level) for level in levels]
        features["label"] = hf.ClassLabel(names=list(names)) if names else hf.Value("int64")
    return hf.Dataset.from_dict(rows, features=hf.Features(features))


def _levels(split):
    return sorted(split.whole()[:, 0, 0, 0].tolist())


def _all(loaded):
    return sorted(_levels(loaded.train) + _levels(loaded.validation) + _levels(loaded.test))


def test_saved_dataset_is_split_by_seed(hf, tmp_path):
    _made(hf, range(30)).save_to_disk(str(tmp_path / "set"))
    loaded = _load(tmp_path / "set")
    assert _all(loaded) == [*range(30)]
    assert loaded.class_names == ("cat", "dog")
    assert torch.equal(loaded.train.images[:, 0, 0, 0].long() % 2, loaded.train.labels)


def test_saved_dict_keeps_its_splits_and_leaves_hidden_labels_out(hf, tmp_path):
    parts = {
        "train": _made(hf, range(30)),
        "validation": _made(hf, range(30, 40)),
        "test": _made(hf, range(40, 50), lambda n: -1),
    }
    hf.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    loaded = _load(tmp_path / "set")
    assert _levels(loaded.validation) == [*range(30, 40)]
    assert sorted(_levels(loaded.train) + _levels(loaded.test)) == [*range(30)]
    assert "the labels of 'test' are hidden (-1)" in loaded.notes[0]


def test_numbers_and_parquet_files_will_do(hf, tmp_path):
    _made(hf, range(20), names=None).to_parquet(str(tmp_path / "train-00000-of-00002.parquet"))
    _made(hf, range(20, 40), names=None).to_parquet(str(tmp_path / "train-00001-of-00002.parquet"))
    _made(hf, range(40, 50), names=None).to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    loaded = _load(tmp_path)
    assert _levels(loaded.test) == [*range(40, 50)]
    assert loaded.class_names == ("0", "1")


def test_parquet_that_does_not_fit_is_refused(hf, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 200, 200), dtype=np.uint8)
    rows = {"image": [Image.fromarray(each) for each in noise], "label": [0, 1] * 15}
    features = hf.Features({"image": hf.Image(), "label": hf.Value("int64")})
    hf.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    assert data.has_labels(f"hf:{tmp_path}")
    with pytest.raises(UsageError, match=r"these have 1 MiB \(images\.in_memory_mib is 0\)"):
        _load(tmp_path, in_memory_mib=0)


def test_large_sets_stay_on_disk(hf, tmp_path):
    _made(hf, range(30)).save_to_disk(str(tmp_path / "set"))
    small, large = _load(tmp_path / "set"), _load(tmp_path / "set", in_memory_mib=0)
    assert not isinstance(large.train.images, torch.Tensor)
    assert torch.equal(large.train.whole(), small.train.whole())


def test_set_without_labels_is_unlabelled(hf, tmp_path):
    _made(hf, range(30), None).save_to_disk(str(tmp_path / "set"))
    assert not data.has_labels(f"hf:{tmp_path / 'set'}")
    assert len(_load(tmp_path / "set", AGREEMENT, n_classes=2).train) > 0


def test_image_outside_the_folder_is_not_read(hf, tmp_path):
    Image.new("L", (5, 4), 1).save(tmp_path / "secret.png")
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 8, "label": [0, 1] * 4}
    features = hf.Features(
        {"image": {"bytes": hf.Value("binary"), "path": hf.Value("string")}, "label": hf.Value("int64")}
    )
    hf.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UsageError, match="holds no image, and names none in"):
        _load(tmp_path / "set")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda hf, at: None, "does not exist; hf:PATH needs a folder that"),
        (lambda hf, at: at.mkdir(), "is no data set that can be read"),
        (
            lambda hf, at: hf.Dataset.from_dict({"x": [1, 2], "label": [0, 1]}).save_to_disk(str(at)),
            "has no column of images; its columns: x",
        ),
        (
            lambda hf, at: (at.mkdir(), (at / "train.parquet").write_bytes(b"PAR1 no")),
            "its parquet files cannot be read",
        ),
        (
            lambda hf, at: hf.DatasetDict({"odd": _made(hf, range(9))}).save_to_disk(str(at)),
            "the split 'odd' is none of train",
        ),
        (lambda hf, at: _made(hf, range(9), lambda n: 0).save_to_disk(str(at)), "one class only, 'cat'"),
    ],
)
def test_wrong_set_is_one_line(hf, tmp_path, make, message):
    make(hf, tmp_path / "set")
    with pytest.raises(UsageError, match=message):
        _load(tmp_path / "set")


def test_damaged_set_is_one_line(hf, tmp_path):
    _made(hf, range(30)).save_to_disk(str(tmp_path / "set"))
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    arrow.write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(UsageError, match="is no data set that can be read"):
        _load(tmp_path / "set")
