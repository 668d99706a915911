"""Laws of the splitting and of the augmentation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nacdeploy.base.errors import UsageError
from nacdeploy.data import augmented
from nacdeploy.data.splits import split_by_fraction, stratified_order
from nacdeploy.data.transforms import resized

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _batch(n=64, channels=1, size=(16, 24)):
    return torch.randint(1, 256, (n, channels, *size), generator=_generator(), dtype=torch.uint8)


@settings(deadline=None, max_examples=50)
@given(LABELS, st.integers(0, 2**40), st.integers(0, 60))
def test_prefix_of_the_order_has_the_classes_in_proportion(labels, seed, n):
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    prefix = labels[order[:n]].bincount(minlength=5)
    expected = labels.bincount(minlength=5) * min(n, len(labels)) / len(labels)
    assert (prefix - expected).abs().max() < 5


def test_prefix_is_exact_when_it_holds_whole_shares():
    labels = torch.arange(1000) % 10
    assert labels[stratified_order(labels, 3)[:100]].bincount().tolist() == [10] * 10


@settings(deadline=None, max_examples=50)
@given(LABELS, st.integers(0, 2**40))
def test_split_is_a_partition_with_every_class_in_every_part(labels, seed):
    labels = torch.cat([labels, torch.arange(5).repeat(3)])
    parts = split_by_fraction(labels, tuple("abcde"), validation=0.15, test=0.25, seed=seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    assert all(len(labels[part].unique()) == 5 for part in parts)


def test_split_makes_no_part_of_fraction_zero():
    labels = torch.arange(20) % 2
    train, validation, test = split_by_fraction(labels, ("a", "b"), validation=0.2, test=0.0, seed=0)
    assert (len(train), len(validation), len(test)) == (16, 4, 0)


def test_split_fails_when_a_class_has_no_image():
    with pytest.raises(UsageError, match="class 'c' has 0 images; to split into 3 it needs 3"):
        split_by_fraction(torch.arange(20) % 2, ("a", "b", "c"), validation=0.2, test=0.2, seed=0)


@pytest.mark.parametrize("kind", ["none", "shift", "crop-flip"])
def test_augmented_keeps_shape_and_type_and_depends_on_the_generator_alone(kind):
    images = _batch(channels=3)
    first, second = augmented(images, kind, _generator(4)), augmented(images, kind, _generator(4))
    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    assert torch.equal(first, second)
    assert torch.equal(first, augmented(images, kind, _generator(5))) == (kind == "none")


def test_augmented_leaves_the_global_generator_and_the_batch_alone():
    images, state = _batch(), torch.get_rng_state()
    before = images.clone()
    augmented(images, "crop-flip", _generator())
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def _shifts(image):
    """The image moved by up to an eighth, `(5 * 7, C, H, W)` for 16x24."""
    padded = torch.nn.functional.pad(image, (3, 3, 2, 2))
    return torch.stack([padded[:, y : y + 16, x : x + 24] for y in range(5) for x in range(7)])


def _is_one_of(image, candidates):
    return bool((candidates == image).flatten(1).all(dim=1).any())


def test_shift_moves_each_image_by_up_to_an_eighth():
    images = _batch()
    shifted = augmented(images, "shift", _generator(1))
    assert all(_is_one_of(new, _shifts(old)) for new, old in zip(shifted, images, strict=True))
    assert len({tuple((new[0] > 0).nonzero()[0].tolist()) for new in shifted}) > 3


def test_crop_flip_also_mirrors_some_images():
    images = _batch()
    changed = augmented(images, "crop-flip", _generator(1))
    plain = [_is_one_of(new, _shifts(old)) for new, old in zip(changed, images, strict=True)]
    mirrored = [_is_one_of(new, _shifts(old).flip(-1)) for new, old in zip(changed, images, strict=True)]
    assert all(a != b for a, b in zip(plain, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_augmented_fails_when_the_kind_is_unknown():
    with pytest.raises(UsageError, match="unknown augmentation 'shfit'; did you mean 'shift'"):
        augmented(_batch(), "shfit", _generator())


def test_resized_keeps_constant_images_constant():
    images = torch.full((3, 1, 5, 9), 77, dtype=torch.uint8)
    assert torch.equal(resized(images, 12), torch.full((3, 1, 12, 12), 77, dtype=torch.uint8))


def test_resized_averages_what_it_shrinks():
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(16, 8).view(1, 1, 16, 16)
    assert (resized(stripes, 4)[..., 1:3].float() - 100).abs().max() < 15


def test_resized_returns_the_same_images_when_the_size_fits():
    images = _batch(size=(8, 8))
    assert resized(images, 8) is images
    assert resized(images, None) is images


def test_resized_does_not_depend_on_how_the_images_are_chunked():
    images = _batch(n=1030, size=(6, 6))
    assert torch.equal(resized(images, 9)[1024:], resized(images[1024:], 9))
