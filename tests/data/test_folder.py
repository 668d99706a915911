"""A user's own images: layouts, colours, sizes and every way in which a folder can be wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from nacdeploy import data
from nacdeploy.errors import UsageError
from nacdeploy.profile.training import DataTable


def _save(path, number=0, mode="L", size=(6, 5)):
    """An image `(H, W) = size` whose grey level is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size[::-1], number).convert(mode).save(path)


def _classes(root, counts, first=0, **keywords):
    """Numbered images in class folders; gives the next number."""
    for name, count in counts.items():
        for number in range(first, first + count):
            _save(root / name / f"{number:03}.png", number, **keywords)
        first += count
    return first


def _load(root, **table):
    return data.load(f"folder:{root}", DataTable(**table))


def _numbers(split):
    return set(split.images[:, 0, 0, 0].tolist())


def _splits(loaded):
    return [_numbers(split) for split in (loaded.train, loaded.validation, loaded.test)]


def test_folder_of_classes_is_split_by_seed(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    loaded = _load(tmp_path)
    train, validation, test = _splits(loaded)
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [42, 9, 9]
    assert train | validation | test == set(range(60))
    assert loaded.validation.labels.bincount().tolist() == [3, 6]
    assert loaded.class_names == ("cat", "dog")
    assert loaded.source == f"{tmp_path} (validation and test taken from train by seed)"


def test_labels_follow_the_folders(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    train = _load(tmp_path).train
    assert torch.equal(train.labels, (train.images[:, 0, 0, 0] >= 20).long())


def test_split_depends_on_the_seed_alone(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    assert _splits(_load(tmp_path)) == _splits(_load(tmp_path))
    assert _splits(_load(tmp_path)) != _splits(_load(tmp_path, split_seed=5))


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_given_splits_are_kept(tmp_path, validation):
    second = _classes(tmp_path / "train", {"cat": 5, "dog": 5})
    third = _classes(tmp_path / validation, {"cat": 3, "dog": 2}, second)
    last = _classes(tmp_path / "test", {"dog": 4}, third)
    loaded = _load(tmp_path)
    assert _splits(loaded) == [set(range(second)), set(range(second, third)), set(range(third, last))]
    assert loaded.test.labels.tolist() == [1] * 4
    assert loaded.source == str(tmp_path)


def test_missing_validation_is_taken_from_train(tmp_path):
    second = _classes(tmp_path / "train", {"cat": 20, "dog": 20})
    last = _classes(tmp_path / "test", {"cat": 3, "dog": 3}, second)
    train, validation, test = _splits(_load(tmp_path))
    assert (len(validation), train | validation, test) == (6, set(range(second)), set(range(second, last)))
    assert not train & validation


def test_missing_test_is_taken_from_train(tmp_path):
    second = _classes(tmp_path / "train", {"cat": 20, "dog": 20})
    last = _classes(tmp_path / "val", {"cat": 3, "dog": 3}, second)
    train, validation, test = _splits(_load(tmp_path))
    assert (len(test), train | test, validation) == (6, set(range(second)), set(range(second, last)))
    assert not train & test


def test_class_may_be_called_train_when_it_holds_images(tmp_path):
    _classes(tmp_path, {"train": 4, "plane": 4})
    assert _load(tmp_path).class_names == ("plane", "train")


def test_only_the_files_needed_are_read(tmp_path):
    _classes(tmp_path, {"cat": 40, "dog": 40})
    loaded = _load(tmp_path, n_train=10, n_validation=4, n_test=2)
    kept = set.union(*_splits(loaded))
    for path in tmp_path.rglob("*.png"):
        if int(path.stem) not in kept:
            path.write_bytes(b"broken")
    assert _splits(_load(tmp_path, n_train=10, n_validation=4, n_test=2)) == _splits(loaded)
    assert loaded.train.labels.bincount().tolist() == [5, 5]


def test_hidden_files_are_ignored(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / ".cache" / "x").mkdir(parents=True)
    (tmp_path / "cat" / "._000.png").write_bytes(b"not an image")
    assert _load(tmp_path).class_names == ("cat", "dog")


def test_images_stay_gray_when_all_are(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    _save(tmp_path / "cat" / "bits.png", 255, mode="1")
    _save(tmp_path / "cat" / "alpha.png", 200, mode="LA")
    assert _load(tmp_path).channels == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_all_images_are_colour_when_one_is(tmp_path, mode):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    _save(tmp_path / "cat" / "colour.png", 100, mode=mode)
    loaded = _load(tmp_path)
    splits = (loaded.train, loaded.validation, loaded.test)
    assert [split.images.shape[1] for split in splits] == [3, 3, 3]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(np.full((6, 5), 0x8000, np.uint16)).save(path)
    assert _load(tmp_path).train.images.unique().tolist() == [0x80]


def test_images_are_resized_when_their_sizes_differ(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    _save(tmp_path / "cat" / "large.png", 9, size=(30, 40))
    loaded = _load(tmp_path, input_size=8)
    assert (loaded.input_size, 9 in set.union(*_splits(loaded))) == ((8, 8), True)


def test_load_fails_when_the_sizes_differ(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    _save(tmp_path / "cat" / "large.png", 9, size=(30, 40))
    with pytest.raises(UsageError, match=r"large\.png is 30x40, most are 6x5; set images\.input_size"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no class folders; the layout is CLASS/image.png"),
        ({"cat": 9}, "one class only, 'cat'"),
        ({"cat": 9, "dog": 2}, "class 'dog' has 2 images; to split into 3 it needs 3 or more"),
        ({"train/cat": 9, "train/dog": 9, "val/cat": 2, "val/cow": 1}, "class 'cow', which the training"),
        ({"train/cat": 9, "train/dog": 1}, "class 'dog' has 1 images; to split into 3"),
        ({"train/cat": 9, "test/cat": 9}, "one class only, 'cat'"),
        ({"val/cat": 9, "test/cat": 9}, "has a split 'val' and no 'train'"),
        ({"test/cat": 9, "test/dog": 9}, "has a split 'test' and no 'train'"),
        ({"train/cat": 1, "val/cat": 1, "valid/cat": 1}, "two validation splits: val and valid"),
    ],
)
def test_load_fails_when_the_layout_is_wrong(tmp_path, counts, message):
    _classes(tmp_path, counts)
    with pytest.raises(UsageError, match=message):
        _load(tmp_path)


def test_load_fails_when_a_class_is_empty(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cow").mkdir()
    with pytest.raises(UsageError, match="cow holds no images"):
        _load(tmp_path)


def test_load_fails_when_no_class_holds_images(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        _load(tmp_path)


def test_load_names_the_file_when_an_image_is_broken(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    path = tmp_path / "dog" / "006.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UsageError, match=r"dog/006\.png is not a readable image"):
        _load(tmp_path)


def test_load_names_the_file_when_its_pixels_are_floats(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    Image.new("F", (5, 6)).save(tmp_path / "cat" / "depth.tiff")
    with pytest.raises(UsageError, match=r"depth\.tiff is not a readable image \(mode F: only"):
        _load(tmp_path)


def test_load_fails_when_the_folder_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="does not exist or is no directory"):
        _load(tmp_path / "nowhere")
