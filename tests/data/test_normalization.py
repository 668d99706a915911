"""What images are normalised by: names, numbers, and grey images in colour."""

import pytest
import torch

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.data.normalization import IMAGENET
from nacdeploy.profile.tables.training import DataTable

SMALL = {"n_train": 50, "n_validation": 20, "n_test": 20, "input_size": 8}


def _digits(**keys):
    return data.load("digits", DataTable(**SMALL, **keys))


def test_default_is_the_statistics_of_the_training_images():
    loaded = _digits()
    assert (loaded.mean, loaded.std) == data.statistics(loaded.train.images)
    named = _digits(mean="data", std="data")
    assert (named.mean, named.std) == (loaded.mean, loaded.std)


def test_numbers_normalise():
    loaded = _digits(mean=0.5, std=0.25)
    expected = (loaded.train.images.float() / 255 - 0.5) / 0.25
    assert torch.allclose(loaded.normalize(loaded.train.images), expected)


def test_three_numbers_show_grey_images_as_three_equal_channels():
    grey, loaded = _digits(), _digits(mean="imagenet", std="imagenet")
    assert (loaded.channels, loaded.mean, loaded.std) == (3, *IMAGENET)
    normalised = loaded.normalize(loaded.train.images[:4])
    for channel in range(3):
        expected = (grey.train.images[:4, 0].float() / 255 - IMAGENET[0][channel]) / IMAGENET[1][channel]
        assert torch.allclose(normalised[:, channel], expected, atol=1e-6)
    assert {split.images.shape[1] for split in (loaded.train, loaded.validation, loaded.test)} == {3}


def test_three_of_one_and_a_number_of_the_other_go_together():
    loaded = _digits(mean=[0.1, 0.2, 0.3], std=0.5)
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_number_is_that_of_every_channel_of_colour_images(tmp_path):
    from PIL import Image

    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            Image.new("RGB", (5, 4), (i, 50, 90)).save(tmp_path / label / f"{i}.png")
    loaded = data.load(f"folder:{tmp_path}", DataTable(mean=0.5, std=0.25))
    assert (loaded.mean, loaded.std) == ((0.5,) * 3, (0.25,) * 3)


def test_load_fails_when_the_network_should_say_it():
    with pytest.raises(UsageError, match=r"images\.mean = 'model' needs a network; give numbers"):
        _digits(mean="model", std="model")
