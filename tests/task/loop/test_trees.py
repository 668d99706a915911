"""Trees of tensors and plain data as bytes: exact, under their key, and never taken where a bit is another one."""

import math

import pytest
import torch

from nacdeploy.task.loop import trees

TREE = {
    "epoch": 3,
    "is_over": False,
    "best": [0.1, -math.inf, None],
    "state": {0: {"step": torch.tensor(4.0)}, 1: {"momentum_buffer": None}},
    "values": {"w": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "n": torch.tensor(7)},
    "spectrum": torch.ones(3, dtype=torch.cfloat),
    "generators": [torch.get_rng_state(), torch.zeros(0)],
}


def test_tree_comes_back_exactly() -> None:
    found = trees.unpacked(trees.packed(TREE, "key"), "key")
    assert found["best"] == [0.1, -math.inf, None] and found["epoch"] == 3 and found["is_over"] is False
    assert found["state"][0]["step"] == 4.0 and found["state"][1] == {"momentum_buffer": None}
    assert torch.equal(found["values"]["w"], TREE["values"]["w"]) and found["values"]["n"].dtype == torch.int64
    assert torch.equal(found["spectrum"], TREE["spectrum"])
    assert torch.equal(found["generators"][0], TREE["generators"][0]) and found["generators"][1].shape == (0,)


def test_bytes_under_another_key_are_another_training_s() -> None:
    with pytest.raises(trees.DamagedError, match="another training"):
        trees.unpacked(trees.packed(TREE, "key"), "other")


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_torn_bytes_are_damaged(cut: int) -> None:
    with pytest.raises(trees.DamagedError, match="hash"):
        trees.unpacked(trees.packed(TREE, "key")[:cut], "key")


def test_one_other_byte_is_damage() -> None:
    data = bytearray(trees.packed(TREE, "key"))
    data[len(data) // 2] ^= 1
    with pytest.raises(trees.DamagedError, match="hash"):
        trees.unpacked(bytes(data), "key")


def test_what_is_no_plain_data_is_not_kept() -> None:
    with pytest.raises(TypeError, match="object is no plain data"):
        trees.packed({"given": object()}, "key")
