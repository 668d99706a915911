"""A user's own images: layouts, colours, sizes and every way in which a folder can be wrong."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.metrics import AGREEMENT
from nacdeploy.profile.tables.training import DataTable


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


def test_folder_without_folders_is_unlabelled(tmp_path):
    for number in range(20):
        _save(tmp_path / f"{number:03}.png", number)
    assert not data.has_labels(f"folder:{tmp_path}")
    loaded = data.load(f"folder:{tmp_path}", DataTable(n_classes=3), AGREEMENT)
    train, validation, test = _splits(loaded)
    assert train | validation | test == set(range(20))
    assert (len(train), len(validation), len(test)) == (14, 3, 3)
    assert loaded.class_names == ("0", "1", "2")
    assert not loaded.is_labelled
    assert set(loaded.train.labels.tolist()) == {-1}  # nobody has answered yet


def test_labelled_folder_keeps_its_images_where_labels_are_not_read(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    assert data.has_labels(f"folder:{tmp_path}")
    ours, theirs = (data.load(f"folder:{tmp_path}", DataTable(n_classes=5), AGREEMENT), _load(tmp_path))
    assert _splits(ours) == _splits(theirs)
    assert ours.fingerprint != theirs.fingerprint


@pytest.mark.parametrize(
    ("n_images", "table", "message"),
    [
        (2, {"n_classes": 3}, "holds 2 images; three splits need three at least"),
        (9, {}, "nothing says how many outputs the network has; set images.n_classes"),
    ],
)
def test_unlabelled_folder_is_refused(tmp_path, n_images, table, message):
    for number in range(n_images):
        _save(tmp_path / f"{number}.png", number)
    with pytest.raises(UsageError, match=message):
        data.load(f"folder:{tmp_path}", DataTable(**table), AGREEMENT)


def test_number_of_outputs_alone_says_nothing_of_labels(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    with pytest.raises(UsageError, match=r"images\.n_classes is given without images\.classes"):
        _load(tmp_path, n_classes=5)


def test_labels_follow_the_folders(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    train = _load(tmp_path).train
    assert torch.equal(train.labels, (train.images[:, 0, 0, 0] >= 20).long())


def test_split_depends_on_the_seed_alone(tmp_path):
    _classes(tmp_path, {"cat": 20, "dog": 40})
    assert _splits(_load(tmp_path)) == _splits(_load(tmp_path))
    assert _splits(_load(tmp_path)) != _splits(_load(tmp_path, split_seed=5))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "Validation", "TEST"),
        ("training", "dev", "testing"),
        ("Training", "validation", "Testing"),
    ],
)
def test_given_splits_are_kept(tmp_path, train, validation, test):
    second = _classes(tmp_path / train, {"cat": 5, "dog": 5})
    third = _classes(tmp_path / validation, {"cat": 3, "dog": 2}, second)
    last = _classes(tmp_path / test, {"dog": 4}, third)
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


def test_folder_beside_the_splits_is_left_out_when_its_name_is_none_of_a_split(tmp_path):
    _classes(tmp_path / "train", {"cat": 5, "dog": 5})
    _classes(tmp_path / "masks", {"cat": 5, "dog": 5})
    assert _load(tmp_path).class_names == ("cat", "dog")


def test_class_of_nested_folders_may_have_test_in_its_name(tmp_path):
    _classes(tmp_path / "test tube", {"glass": 4, "plastic": 4})
    _classes(tmp_path / "flask", {"glass": 4})
    assert _load(tmp_path).class_names == ("flask", "test tube")


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


def _wide(root, bits, size=(16, 16), brightest=None):
    """Grey images in files of 16 bits of which `bits` are in use."""
    rng = np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            pixels = rng.integers(0, brightest or 2**bits, size)
            Image.fromarray(pixels.astype(np.uint16)).save(root / label / f"{i}.png")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_levels_are_kept_whatever_bits_of_sixteen_are_in_use(tmp_path, bits):
    _wide(tmp_path, bits)
    loaded = _load(tmp_path)
    assert (loaded.bits, loaded.train.images.unique().numel()) == (bits, 256)


@pytest.mark.parametrize("bits", [10, 16])
def test_levels_are_kept_when_images_of_sixteen_bits_are_resized(tmp_path, bits):
    _wide(tmp_path, bits, size=(32, 32))
    mean = _load(tmp_path, input_size=8).train.images.float().mean()
    assert mean == pytest.approx(127, abs=3)


def test_depth_is_that_of_the_largest_value_of_the_whole_set(tmp_path):
    _wide(tmp_path, 12, brightest=1000)
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(tmp_path / "a" / "bright.png")
    assert _load(tmp_path).bits == 12


def test_depth_is_eight_when_files_are(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    assert _load(tmp_path).bits == 8


def test_grey_map_of_sixteen_bits_is_scaled_by_its_own_largest_value(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    pixels = np.full((6, 5), 512, ">u2").tobytes()
    for path in tmp_path.rglob("*.png"):
        path.with_suffix(".pgm").write_bytes(b"P5 5 6 1023\n" + pixels)
        path.unlink()
    assert _load(tmp_path).train.images.unique().tolist() == [128]


def _png_of_sixteen_bits_in_colour(path, value):
    """PIL reads such files and writes none."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    rows = (b"\0" + struct.pack(">H", value) * 12) * 4
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_colour_of_sixteen_bits_is_read_when_they_are_in_use_and_refused_when_not(tmp_path):
    for label in "ab":
        for i in range(4):
            _png_of_sixteen_bits_in_colour(tmp_path / label / f"{i}.png", 0x9000)
    assert _load(tmp_path).train.images.unique().tolist() == [0x90]
    for path in tmp_path.rglob("*.png"):
        _png_of_sixteen_bits_in_colour(path, 0x0900)  # 12 bits: PIL gives 16 levels of them
    with pytest.raises(UsageError, match="16 bits a channel in colour, of which the upper ones are not in use"):
        _load(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_are_upright_when_the_camera_was_held_otherwise(tmp_path, suffix):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8] = 200  # light above, dark below
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(5):
            Image.fromarray(np.rot90(upright)).save(tmp_path / label / f"{i}{suffix}", exif=exif)
        Image.fromarray(upright).save(tmp_path / label / f"upright{suffix}")
    loaded = _load(tmp_path)
    assert loaded.input_size == (16, 24)
    images = loaded.train.images.float()
    assert images[:, :, :7].mean() > 190
    assert images[:, :, 9:].mean() < 10


def test_image_is_read_when_only_its_exif_is_broken(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    path = tmp_path / "cat" / "photo.jpg"
    Image.new("L", (5, 6), 77).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert 77 in set.union(*_splits(_load(tmp_path)))


def test_images_are_resized_when_their_sizes_differ(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    _save(tmp_path / "cat" / "large.png", 9, size=(30, 40))
    loaded = _load(tmp_path, input_size=8)
    assert (loaded.input_size, 9 in set.union(*_splits(loaded))) == ((8, 8), True)


def test_images_of_many_sizes_keep_their_shape_and_that_is_said(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4}, size=(20, 20))
    _save(tmp_path / "cat" / "large.png", 9, size=(30, 40))
    loaded = _load(tmp_path)
    assert loaded.input_size == (20, 20)
    (said,) = loaded.notes
    assert said.startswith("images differ in size: the shorter side becomes 23 pixels, of which the middle 20x20")
    assert 9 in set.union(*_splits(loaded))


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
        ({"train/cat": 1, "Train/cat": 1}, "two training splits: Train and train"),
        ({"Testing/cat": 1, "Testing/dog": 1}, "has a split 'Testing' and no 'train'"),
        ({"train/cat": 4, "train/dog": 4, "eval/cat": 1}, "has 'eval', which may be a split; call splits by one of"),
        ({"seg_train/cat": 4, "seg_test/cat": 1}, "has 'seg_train', which may be a split; call splits by one of"),
        ({"train/cat": 4, "train/dog": 4, "test images/cat": 1}, "has 'test images', which may be a split"),
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


def test_load_names_the_suffixes_that_are_read_when_a_class_has_others(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "0.heic").write_bytes(b"image")
    with pytest.raises(UsageError, match=r"cow holds no images by their suffix \(\.jpg, .*\), but 1 of '\.heic'"):
        _load(tmp_path)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF", ".avif"])
def test_jpeg_of_another_suffix_and_avif_are_read(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    _classes(tmp_path, {"cat": 4, "dog": 4})
    kind = "AVIF" if suffix == ".avif" else "JPEG"
    Image.new("RGB", (5, 6), (90, 90, 90)).save(tmp_path / "cat" / f"photo{suffix}", format=kind)
    loaded = _load(tmp_path)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 9


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


def test_load_names_the_file_when_a_photo_is_cut_off(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    path = tmp_path / "dog" / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UsageError, match=r"dog/photo\.jpg is not a readable image \(image file is truncated"):
        _load(tmp_path)


def test_load_names_the_file_when_its_pixels_are_floats(tmp_path):
    _classes(tmp_path, {"cat": 4, "dog": 4})
    Image.new("F", (5, 6)).save(tmp_path / "cat" / "depth.tiff")
    with pytest.raises(UsageError, match=r"depth\.tiff is not a readable image \(mode F: only"):
        _load(tmp_path)


def test_load_fails_when_the_folder_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="does not exist or is no directory"):
        _load(tmp_path / "nowhere")


def test_classes_of_any_split_count_when_they_are_outputs_of_the_network(tmp_path):
    _classes(tmp_path / "train", {"3": 4, "7": 4})
    _classes(tmp_path / "val", {"5": 2, "7": 1}, first=100)
    loaded = _load(tmp_path, classes="index", n_classes=10)
    assert loaded.n_outputs == 10
    assert sorted(loaded.validation.labels.tolist()) == [5, 5, 7]
    assert sorted(loaded.train.labels.tolist() + loaded.test.labels.tolist()) == [3] * 4 + [7] * 4
    with pytest.raises(UsageError, match=r"class '5', which the training images do not have.*--classes"):
        _load(tmp_path)


def test_a_plain_path_of_images_is_told_how_to_be_named(tmp_path):
    _classes(tmp_path, {"a": 9, "b": 9})
    with pytest.raises(UsageError, match=f"folder:{tmp_path}"):
        data.load(str(tmp_path), DataTable())
