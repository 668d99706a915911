"""Images and labels as NumPy arrays."""

import numpy as np
import pytest

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.training import DataTable

IMAGES = np.arange(30, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)
LABELS = np.arange(30) % 3


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize(
    ("images", "channels"),
    [(IMAGES, 1), (IMAGES[..., None].repeat(3, 3), 3), (IMAGES[:, None], 1)],
    ids=["N,H,W", "N,H,W,C", "N,C,H,W"],
)
def test_arrays_are_split_by_seed(suffix, images, channels, tmp_path):
    loaded = data.load(written(tmp_path, suffix, images=images, labels=LABELS[:, None]), DataTable())
    assert (loaded.channels, loaded.input_size, loaded.class_names) == (channels, (4, 5), ("0", "1", "2"))
    for split in (loaded.train, loaded.validation, loaded.test):
        assert (split.images[:, 0, 0, 0] % 3).tolist() == split.labels.tolist()
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [18, 6, 6]


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_arrays_keep_the_splits_that_are_given(names, tmp_path):
    arrays = dict(zip(names, (IMAGES[:20], LABELS[:20], IMAGES[20:], LABELS[20:]), strict=True))
    loaded = data.load(written(tmp_path, "npz", **arrays), DataTable())
    assert sorted(loaded.test.images[:, 0, 0, 0].tolist()) == [*range(20, 30)]
    assert len(loaded.train) + len(loaded.validation) == 20


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "it needs images and labels"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "is float32; images are uint8"),
        ({"images": IMAGES[0], "labels": LABELS}, r"has the shape \(4, 5\)"),
        ({"images": IMAGES[..., None].repeat(2, 3), "labels": LABELS}, "1 or 3 channels"),
        ({"images": IMAGES, "labels": LABELS[:9]}, "labels are 30 class numbers from 0"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels are 30 class numbers from 0"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels are 30 class numbers from 0"),
        ({"images": IMAGES, "labels": LABELS.astype(object)}, "cannot be read"),
    ],
)
def test_arrays_that_are_no_images_are_refused(arrays, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        data.load(written(tmp_path, "npz", **arrays), DataTable())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"hello"])
def test_file_that_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.npz cannot be read"):
        data.load(f"npz:{tmp_path / 'data.npz'}", DataTable())


def test_place_that_is_not_there_is_refused(tmp_path):
    for name in ("npz", f"npz:{tmp_path / 'no.npz'}", "npy", f"npy:{tmp_path / 'no'}"):
        with pytest.raises(UsageError):
            data.load(name, DataTable())


def written(folder, suffix, **arrays):
    if suffix == "npz":
        np.savez(folder / "data.npz", **arrays)
        return f"npz:{folder / 'data.npz'}"
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return f"npy:{folder}"
