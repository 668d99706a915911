"""Image files become sets of images: the same in memory and on disk, in the size that is asked for."""

import os
import select

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.training import DataTable

ON_DISK = {"in_memory_mib": 0}


@pytest.fixture
def photographs(tmp_path):
    """Thirty images of two classes, colours and shapes all different."""
    drawn = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / ("cat", "dog")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        side = 24 + number % 5
        Image.fromarray(drawn.integers(0, 256, (side, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path


def load(root, **table):
    return data.load(f"folder:{root}", DataTable(**table))


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"input_size": 16},
        {"resize": 20, "crop": 16},
        {"resize": 20, "crop": 16, "interpolation": "bicubic"},
        {"crop": 40},
        {"input_size": 16, "cache_mib": 0},
    ],
    ids=str,
)
def test_images_on_disk_are_those_in_memory(table, photographs):
    here, there = load(photographs, **table), load(photographs, **table, **ON_DISK)
    order = torch.tensor([3, 0, 3, 7])
    for split in ("train", "validation", "test"):
        one, other = getattr(here, split), getattr(there, split)
        assert not isinstance(other.images, torch.Tensor)
        with torch.inference_mode():  # as evaluation asks
            for _ in range(2):  # decoded, and out of the cache
                assert torch.equal(one.whole(), other.whole())
        if split == "train":
            assert torch.equal(one.batch(order), other.batch(order))
            assert torch.equal(one.subset(order).whole(), other.subset(order).whole())
            assert torch.equal(torch.cat(list(other.images.split(4))), one.whole())
            assert one.images.shape == other.images.shape
    assert (here.mean, here.std, here.class_names) == (there.mean, there.std, there.class_names)


def test_resized_and_cropped_images_are_those_of_torchvision(photographs):
    (path, *_), table = sorted((photographs / "cat").iterdir()), {"resize": 20, "crop": 16}
    loaded = load(photographs, **table)
    expected = v2.Compose([v2.PILToTensor(), v2.Resize(20, antialias=True), v2.CenterCrop(16)])(Image.open(path))
    every = torch.cat([split.whole() for split in (loaded.train, loaded.validation, loaded.test)])
    assert any(torch.equal(one, expected) for one in every)


def test_grey_images_on_disk_stay_grey_and_are_shown_in_colour_where_asked(tmp_path):
    for number in range(20):
        path = tmp_path / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    assert load(tmp_path, **ON_DISK).channels == 1
    shown = load(tmp_path, **ON_DISK, mean="imagenet", std="imagenet")
    assert shown.channels == 3
    assert torch.equal(shown.train.whole(), load(tmp_path, mean="imagenet", std="imagenet").train.whole())


def test_pixels_of_more_bits_on_disk_keep_their_upper_eight(tmp_path):
    for number in range(20):
        path = tmp_path / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 50 * number, dtype=np.uint16)).save(path)
    here, there = load(tmp_path), load(tmp_path, **ON_DISK)
    assert (here.bits, there.bits) == (10, 10)
    assert torch.equal(here.train.whole(), there.train.whole())


def test_decoded_images_are_kept_where_the_cache_has_room(photographs):
    kept, forgotten = (load(photographs, input_size=16, cache_mib=n, **ON_DISK) for n in (1, 0))
    before = kept.train.whole(), forgotten.train.whole()
    for path in photographs.rglob("*.png"):
        path.unlink()
    assert torch.equal(kept.train.whole(), before[0])
    with pytest.raises(UsageError, match=r"\d+\.png is not a readable image"):
        forgotten.train.whole()


def test_fingerprint_on_disk_follows_from_files_size_and_order(photographs):
    table = {"input_size": 16, **ON_DISK}
    first = load(photographs, **table).fingerprint
    assert load(photographs, **table).fingerprint == first
    assert load(photographs, input_size=12, **ON_DISK).fingerprint != first
    assert load(photographs, **table, split_seed=1).fingerprint != first
    Image.new("RGB", (24, 24), "red").save(photographs / "cat" / "000.png")
    assert load(photographs, **table).fingerprint != first


@pytest.mark.parametrize("place", [{}, ON_DISK], ids=["memory", "disk"])
def test_broken_files_are_refused_or_left_out_by_name(place, photographs):
    whole = (photographs / "dog" / "001.png").read_bytes()
    (photographs / "dog" / "001.png").write_bytes(whole[: len(whole) // 2])
    (photographs / "cat" / "000.png").write_bytes(b"")
    with pytest.raises(UsageError, match="is not a readable image"):
        load(photographs, input_size=16, **place).train.whole()
    loaded = load(photographs, input_size=16, broken="skip", **place)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 28
    assert loaded.notes[0].startswith("2 broken files are left out: ")
    assert "000.png" in loaded.notes[0] and "001.png" in loaded.notes[0]


@pytest.mark.parametrize("place", [{}, ON_DISK], ids=["memory", "disk"])
def test_folder_of_broken_files_alone_is_refused(place, photographs):
    for path in photographs.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="no image can be read: 30 broken files are left out"):
        load(photographs, broken="skip", **place)


def test_images_are_decoded_in_a_fork_too(photographs):
    """A fork takes no threads with it: the pool of its parent would never answer."""
    train = load(photographs, input_size=16, cache_mib=0, **ON_DISK).train
    expected = train.whole().sum().item()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(train.whole().sum().item()).encode())
        os._exit(0)
    assert select.select([read], [], [], 60)[0], "the child does not answer"
    assert int(os.read(read, 32)) == expected
    os.waitpid(child, 0)
