"""Built-in data sets: disjoint, deterministic splits, and every way in which a source can fail."""

import gzip
import types
from urllib.error import URLError

import numpy as np
import pytest
import torch

from nacdeploy import data
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.data.sources import digits, downloads, fashion_mnist
from nacdeploy.profile.tables.training import DataTable

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def _numbered(n: int) -> np.ndarray:
    """Images `(N, 5, 4)` of which the first two pixels hold the image's number."""
    images = np.zeros((n, 5, 4), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(n) // 256, np.arange(n) % 256
    return images


@pytest.fixture
def mnist(tmp_path):
    """A small data set in Fashion-MNIST's format: 300 training and 40 test images."""
    arrays = (_numbered(300), np.arange(300) % 10, _numbered(340)[300:], np.arange(40) % 10)
    for stem, values in zip(PARTS, arrays, strict=True):
        (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(_idx(values.astype(np.uint8))))
    return tmp_path


def _numbers(split) -> set[int]:
    images = split.images.int()
    return set((images[:, 0, 0, 0] * 256 + images[:, 0, 0, 1]).tolist())


def _load(directory, **table):
    return data.load(f"fashion-mnist:{directory}", DataTable(**{"n_validation": 60, **table}))


def test_splits_are_disjoint_and_complete(mnist):
    loaded = _load(mnist)
    splits = [_numbers(split) for split in (loaded.train, loaded.validation, loaded.test)]
    assert [len(split) for split in splits] == [240, 60, 40]
    assert set.union(*splits) == set(range(340))


def test_labels_stay_with_their_images(mnist):
    loaded = _load(mnist)
    numbers = loaded.train.images[:, 0, 0, 0].int() * 256 + loaded.train.images[:, 0, 0, 1]
    assert torch.equal(numbers % 10, loaded.train.labels)


def test_splits_are_stratified(mnist):
    assert _load(mnist).validation.labels.bincount().tolist() == [6] * 10


def test_splits_depend_on_the_seed_alone(mnist):
    first, second, other = _load(mnist), _load(mnist), _load(mnist, split_seed=1)
    assert torch.equal(first.train.images, second.train.images)
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert _numbers(first.validation) != _numbers(other.validation)
    assert _numbers(first.test) == _numbers(other.test)


def test_splits_are_reduced_in_proportion(mnist):
    loaded = _load(mnist, n_train=50, n_test=20)
    assert loaded.train.labels.bincount().tolist() == [5] * 10
    assert loaded.test.labels.bincount().tolist() == [2] * 10


def test_split_stays_whole_when_it_has_fewer_images_than_asked(mnist):
    assert len(_load(mnist, n_test=41).test) == 40


def test_images_are_resized(mnist):
    loaded = _load(mnist, input_size=12)
    assert (loaded.input_size, loaded.channels, loaded.train.images.dtype) == ((12, 12), 1, torch.uint8)


def test_statistics_are_those_of_the_training_images(mnist):
    loaded = _load(mnist)
    scaled = loaded.train.images.double() / 255
    assert loaded.mean == pytest.approx((scaled.mean().item(),))
    assert loaded.std == pytest.approx((scaled.std(correction=0).item(),))


def test_normalized_training_images_have_mean_zero_and_deviation_one():
    loaded = data.load("digits", DataTable())
    images = loaded.normalize(loaded.train.images)
    assert (images.dtype, images.shape) == (torch.float32, loaded.train.images.shape)
    assert (images.mean().item(), images.std().item()) == pytest.approx((0, 1), abs=1e-3)


def test_normalize_is_finite_when_all_pixels_are_equal():
    mean, std = data.statistics(torch.full((3, 1, 2, 2), 7, dtype=torch.uint8))
    assert (mean, std) == ((pytest.approx(7 / 255),), (1 / 255,))


def test_fingerprint_sees_a_single_pixel(mnist):
    before = _load(mnist).fingerprint
    images = _numbered(340)[300:]
    images[3, 2, 2] = 1
    (mnist / f"{PARTS[2]}.gz").write_bytes(gzip.compress(_idx(images)))
    assert _load(mnist).fingerprint != before


def test_files_may_be_unpacked_and_in_torchvisions_folders(mnist):
    raw = mnist / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in PARTS:
        (raw / stem).write_bytes(gzip.decompress((mnist / f"{stem}.gz").read_bytes()))
        (mnist / f"{stem}.gz").unlink()
    loaded = _load(mnist)
    assert (len(loaded.train), loaded.source) == (240, str(mnist))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not hold t10k-images-idx3-ubyte.gz; fashion-mnist:DIR needs"),
        (b"not gzip", r"ubyte\.gz cannot be read"),
        (gzip.compress(b"text"), "not an IDX file of unsigned bytes with 3 axes"),
        (gzip.compress(_idx(np.zeros(40, np.uint8))), "not an IDX file of unsigned bytes with 3 axes"),
        (gzip.compress(_idx(_numbered(40))[:-1]), "holds 799 values where its header says 40x5x4"),
        (gzip.compress(_idx(_numbered(40)))[:-30], r"ubyte\.gz cannot be read"),
        (gzip.compress(_idx(_numbered(39))), "39 images and 40 labels in its 't10k' files"),
    ],
    ids=("missing", "not gzip", "not IDX", "one axis", "short", "cut", "fewer"),  # gzip's bytes hold the time
)
def test_load_fails_when_a_file_is_missing_or_broken(mnist, content, message):
    path = mnist / f"{PARTS[2]}.gz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        _load(mnist)


def test_load_fails_when_a_label_has_no_class(mnist):
    (mnist / f"{PARTS[3]}.gz").write_bytes(gzip.compress(_idx(np.arange(40, dtype=np.uint8))))
    with pytest.raises(UsageError, match="label 39 in its 't10k' files"):
        _load(mnist)


@pytest.mark.parametrize("n_validation", [300, None])
def test_load_fails_when_validation_would_take_all_training_images(mnist, n_validation):
    with pytest.raises(UsageError, match=r"none of the 300 training images; set images\.n_validation below 300"):
        _load(mnist, n_validation=n_validation)


def test_load_fails_when_a_split_is_empty():
    empty = data.ImageSet(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UsageError, match="the test split is empty"):
        data._prepared(empty, "test", None, DataTable(), False)


@pytest.mark.skipif(not fashion_mnist.DEBIAN_DIRECTORIES[0].is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debian_package_is_found():
    loaded = data.load("fashion-mnist", DataTable(n_train=200, n_test=100))
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [200, 5000, 100]
    assert loaded.source.startswith("/usr/share")


def test_debian_package_is_found_through_its_listing(mnist, monkeypatch, tmp_path):
    listing = tmp_path / "dataset.list"
    listing.write_text(f"/.\n{mnist / PARTS[0]}.gz\n")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIRECTORIES", ())
    monkeypatch.setattr(fashion_mnist, "DEBIAN_LISTING", listing)
    assert data.load("fashion-mnist", DataTable(n_validation=60)).source == str(mnist)


def _no_network(*args, **keywords):
    raise URLError("no network")


def test_fashion_mnist_names_the_way_out_when_it_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIRECTORIES", ())
    monkeypatch.setattr(fashion_mnist, "DEBIAN_LISTING", tmp_path / "none")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", _no_network)
    with pytest.raises(NacdeployError, match=r"cannot download fashion-mnist .*no network.* as fashion-mnist:DIR"):
        data.load("fashion-mnist", DataTable())


@pytest.mark.parametrize(
    ("name", "given"), [("cifar10", "cifar10"), ("cifar100", "cifar100"), ("cifar10", "cifar10:somewhere")]
)
def test_cifar_names_the_way_out_when_it_cannot_be_downloaded(monkeypatch, name, given):
    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}", _no_network)
    data.name_by_user(given)
    archive = f"cifar-{name.removeprefix('cifar')}-python.tar.gz"
    with pytest.raises(NacdeployError, match=f"no network.*put {archive} into a directory and give it as {name}:DIR"):
        data.load(given, DataTable())


def test_cifar_is_split_and_turned_channels_first(monkeypatch, tmp_path):
    asked = []

    def fake(root, *, train, download):
        asked.append((root, train, download))
        n = 200 if train else 50
        images = np.random.default_rng(n).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)
        print("Files already downloaded")
        return types.SimpleNamespace(data=images, targets=[i % 5 for i in range(n)], classes=list("abcde"))

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake)
    data.name_by_user(f"cifar10:{tmp_path}")
    loaded = data.load(f"cifar10:{tmp_path}", DataTable(n_validation=40))
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert (loaded.train.images.shape, loaded.class_names) == ((160, 3, 6, 8), tuple("abcde"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_folder_that_only_a_record_names_is_not_downloaded_to(name, monkeypatch, tmp_path):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", _no_network)
    folder = tmp_path / "elsewhere"
    with pytest.raises(UsageError, match=f"pass --data {name}:{folder}, or put"):
        data.load(f"{name}:{folder}", DataTable())
    assert not folder.exists()


def test_downloads_do_not_print_to_stdout(capsys, tmp_path):
    with downloads.downloading("x", "y", tmp_path):
        print("Downloading")
    assert capsys.readouterr().out == ""


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert downloads.cache_directory() == tmp_path / "nacdeploy"


def test_digits_are_split_by_class_and_none_is_lost():
    loaded = data.load("digits", DataTable())
    sizes = [len(loaded.train), len(loaded.validation), len(loaded.test)]
    assert sum(sizes) == 1797
    assert [round(size / 1797, 2) for size in sizes] == [0.60, 0.15, 0.25]
    assert all(split.labels.unique().tolist() == list(range(10)) for split in (loaded.train, loaded.test))


def test_digits_use_the_whole_range_of_a_byte():
    splits = digits.read(None, DataTable(input_size=8))
    assert (int(splits.train.images.min()), int(splits.train.images.max())) == (0, 255)


def test_digits_are_16_pixels_wide_when_no_size_is_asked():
    assert data.load("digits", DataTable()).input_size == (16, 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit'; did you mean 'digits'.*cifar10"),
        ("cifar-10:x", "did you mean 'cifar10'"),
        ("digits:somewhere", "'digits' takes no argument, given: 'somewhere'"),
        ("folder", "needs a path: folder:PATH"),
        ("folder:", "needs a path: folder:PATH"),
    ],
)
def test_load_fails_when_the_name_is_wrong(name, message):
    with pytest.raises(UsageError, match=message):
        data.load(name, DataTable())


def test_sources_are_all_named():
    named = (
        "digits",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "tiny-imagenet",
        "imagenet",
        "folder",
        "csv",
        "npz",
        "npy",
    )
    named += ("wds", "hf")
    assert named == data.SOURCES
