"""ImageNet's layouts, with and without folders in val."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.training import DataTable

WORDS = ("n01440764", "n01443537", "n02102040")


def _save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level,) * 3).save(path, "PNG")


def _train(root):
    for number in range(18):
        _save(root / "train" / WORDS[number % 3] / f"{WORDS[number % 3]}_{number}.JPEG", 10 * (number % 3))


def _flat(root):
    for number in range(6):
        _save(root / "val" / f"ILSVRC2012_val_{number + 1:08}.JPEG", 10 * (number % 3) + 100)


def _load(root, **table):
    return data.load(f"imagenet:{root}", DataTable(**table))


def _check(loaded):
    assert loaded.class_names == WORDS
    assert len(loaded.test) == 6
    assert (loaded.test.images[:, 0, 0, 0].long() - 100).tolist() == [10 * n for n in loaded.test.labels.tolist()]
    assert loaded.train.images[:, 0, 0, 0].tolist() == [10 * n for n in loaded.train.labels.tolist()]
    assert len(loaded.train) + len(loaded.validation) == 18


@pytest.mark.parametrize("below", [".", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC"])
def test_val_in_folders_is_the_test_split(tmp_path, below):
    _train(tmp_path / below)
    for number in range(6):
        _save(tmp_path / below / "val" / WORDS[number % 3] / f"{number}.JPEG", 10 * (number % 3) + 100)
    _check(_load(tmp_path))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("val_labels.txt", lambda n: f"ILSVRC2012_val_{n + 1:08}.JPEG {WORDS[n % 3]}"),
        ("val.txt", lambda n: f"ILSVRC2012_val_{n + 1:08}.JPEG {n % 3}"),
        ("LOC_val_solution.csv", lambda n: f"ILSVRC2012_val_{n + 1:08},{WORDS[n % 3]} 85 1 499 272"),
    ],
)
def test_flat_val_takes_its_classes_from_a_list(tmp_path, name, line):
    _train(tmp_path)
    _flat(tmp_path)
    head = ["ImageId,PredictionString"] if name.endswith(".csv") else []
    (tmp_path / name).write_text("\n".join([*head, *map(line, range(6))]))
    _check(_load(tmp_path))


def test_flat_val_takes_its_classes_from_the_development_kit(tmp_path):
    _train(tmp_path)
    _flat(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O")]
    rows = [(3, WORDS[0], "tench"), (1, WORDS[1], "goldfish"), (2, WORDS[2], "spaniel")]
    savemat(str(kit / "meta.mat"), {"synsets": np.array(rows, dtype=kinds)})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(["3", "1", "2"] * 2))
    _check(_load(tmp_path))


def test_val_alone_is_split(tmp_path):
    for number in range(30):
        _save(tmp_path / "val" / WORDS[number % 3] / f"{number}.JPEG", number)
    loaded = _load(tmp_path)
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 30


def test_classes_are_outputs_by_wordnet_number(tmp_path):
    _train(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(f"{word} name" for word in reversed(WORDS)))
    assert _load(tmp_path, classes=str(tmp_path / "classes.txt")).train.labels.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "neither train nor val"),
        (lambda root: (root / "train").mkdir(), "holds no images"),
        (
            lambda root: (_train(root), _flat(root)),
            r"nothing says the classes of its 6 images: put LOC_val_solution\.csv",
        ),
        (
            lambda root: (_train(root), _flat(root), (root / "val.txt").write_text("a.JPEG 9")),
            "line 1: '9' is no class",
        ),
        (
            lambda root: (_train(root), _flat(root), (root / "val.txt").write_text("a.JPEG 1")),
            r"no class for ILSVRC2012_val_0",
        ),
        (lambda root: (_train(root), _save(root / "val/n09999999/1.JPEG", 1)), "n09999999', which train does not have"),
        (
            lambda root: (_train(root), _flat(root), (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1")),
            r"numbers the classes by meta\.mat",
        ),
        (
            lambda root: (
                _train(root),
                _flat(root),
                (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1"),
                (root / "meta.mat").write_bytes(b"x" * 300),
            ),
            "does not number the 6 images",
        ),
    ],
)
def test_wrong_layout_is_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UsageError, match=message):
        _load(tmp_path)


@pytest.mark.parametrize("argument", ["", ":", ":/nowhere"])
def test_missing_folder_is_one_line(argument):
    with pytest.raises(UsageError, match="needs its folder"):
        data.load(f"imagenet{argument}", DataTable())
