"""Differences are exact, and small where tensors are near to each other."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nacdeploy.strategies.memory.difference import as_cut, composed, cut, difference, digest, restored


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def drawn(dtype: torch.dtype, seed: int, shape: tuple[int, ...] = (7, 3, 5)) -> Tensor:
    """Any bits at all: infinities, not-a-numbers and denormal numbers included."""
    width = torch.empty((), dtype=dtype).element_size()
    count = int(torch.tensor(shape).prod()) * width if shape else width
    raw = torch.randint(256, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shape", [(7, 3, 5), (1,), (), (0, 4)], ids=str)
def test_restored_tensor_has_the_same_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for tensor, base in ((drawn(dtype, 1, shape), drawn(dtype, 2, shape)), (drawn(dtype, 3, shape),) * 2):
        again = restored(difference(tensor, base), base)
        assert (again.dtype, again.shape, bits(again)) == (tensor.dtype, tensor.shape, bits(tensor))


def test_boolean_tensor_is_restored() -> None:
    mask, base = torch.rand(9, 4) > 0.5, torch.rand(9, 4) > 0.5
    assert torch.equal(restored(difference(mask, base), base), mask)


@given(st.lists(st.floats(width=32), min_size=1), st.lists(st.floats(width=32), min_size=1))
def test_any_floats_are_restored(values: list[float], others: list[float]) -> None:
    n = min(len(values), len(others))
    tensor, base = torch.tensor(values[:n]), torch.tensor(others[:n])
    assert bits(restored(difference(tensor, base), base)) == bits(tensor)


def test_tensor_in_another_layout_is_restored() -> None:
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    base = torch.randn(2, 3, 4, 4)
    assert torch.equal(restored(difference(tensor, base), base), tensor)
    assert digest(tensor) == digest(tensor.contiguous())


@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4])
def test_difference_of_near_weights_is_clearly_smaller(step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    base = 0.05 * torch.randn(64, 32, 3, 3, generator=generator)
    tensor = base * (1 + step * torch.randn(base.shape, generator=generator))
    assert len(difference(tensor, base)) < 0.7 * tensor.nbytes


@pytest.mark.parametrize("damage", [lambda d: d[:-3], lambda d: b"", lambda d: b"no frame at all"])
def test_damaged_difference_is_an_error(damage: Callable[[bytes], bytes]) -> None:
    tensor, base = torch.randn(300), torch.randn(300)
    with pytest.raises(ValueError, match=r"difference|reshape"):
        restored(damage(difference(tensor, base)), base)


def test_digest_tells_types_shapes_and_bits_apart() -> None:
    zeros = torch.zeros(4)
    others = [-zeros, zeros.reshape(2, 2), zeros.double(), zeros.int(), torch.zeros(8, dtype=torch.float16)]
    assert len({digest(tensor) for tensor in (zeros, *others)}) == 6


def test_composed_cut_is_one_cut_after_the_other() -> None:
    tensor = torch.randn(8, 6, 3)
    first, second = as_cut([(0, [1, 3, 4, 7]), (1, [5, 0, 2])]), as_cut([(0, [3, 0]), (2, [1])])
    assert torch.equal(cut(tensor, composed(first, second)), cut(cut(tensor, first), second))


def test_repeated_slices_of_one_axis_are_one_cut() -> None:
    tensor = torch.arange(10)
    assert torch.equal(cut(tensor, as_cut([(0, range(2, 9)), (0, [0, 6])])), torch.tensor([2, 8]))
