"""The container: every kind of tensor comes back to the bit, and what was changed is seen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nacdeploy.base.errors import NacdeployError
from nacdeploy.coding import container, files
from nacdeploy.coding.codec import Rule
from nacdeploy.coding.fixed_point import FixedPoint


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(60, 50, generator=generator) < 0.07
    shared = torch.where(kept, torch.randint(1, 16, kept.shape, generator=generator) * 0.1, 0.0)
    return {
        "shared": shared,
        "mask": shared != 0,
        "single": torch.full((100, 7), 3.5),
        "zeros": torch.zeros(30, 30),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.0),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 0.0, -float("inf")] * 50),
        "many": torch.randn(3000, generator=generator),
        "halves": torch.randn(1000, generator=generator).bfloat16(),
        "doubles": torch.randn(300, generator=generator).double(),
        "int8": (torch.randn(5000, generator=generator) * 30).clamp(-127, 127).to(torch.int8),
        "int32": torch.randint(-(10**6), 10**6, (500,), generator=generator, dtype=torch.int32),
        "rare": (torch.rand(20_000, generator=generator) > 0.9995).float(),
        "two": torch.tensor([1.0, -1.0] * 500),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "note.json").write_text('{"a": 1}')
    return tmp_path


def written(folder: Path, **rules: Rule) -> tuple[Path, container.Header]:
    path = folder.parent / f"{folder.name}.nac"
    return path, container.write(path, files.cut(folder), rules)


def test_every_kind_of_tensor_comes_back_to_the_bit(folder: Path) -> None:
    path, header = written(folder)
    with container.Reader(path) as reader:
        restored = {entry.path: reader.file(entry) for entry in reader.header.files}
    assert restored == {name: (folder / name).read_bytes() for name in ("model.safetensors", "sub/note.json")}
    methods = {row.name: row.method for row in header.files[0].tensors}
    assert methods["single"] == methods["zeros"] == "constant"
    assert methods["mask"] == "lookup"
    assert methods["shared"] == "huffman"
    assert methods["many"] in ("planes", "zstd", "raw")


@pytest.mark.parametrize("name", ["shared", "mask", "special", "int8", "rare"])
def test_one_tensor_is_read_alone(name: str, folder: Path) -> None:
    path, _ = written(folder)
    with container.Reader(path) as reader:
        found = reader.tensor(reader.header.files[0], name)
    assert found == tensors()[name].numpy().tobytes()


@pytest.mark.parametrize("codes", ["huffman", "plain"])
@pytest.mark.parametrize("run_bits", [0, 2, 5, None])
def test_codes_that_are_asked_for_are_taken(codes: str, run_bits: int | None, folder: Path) -> None:
    path, header = written(folder, shared=Rule(codes, run_bits), two=Rule(codes, run_bits))
    rows = {row.name: row for row in header.files[0].tensors}
    assert rows["shared"].method == rows["two"].method == codes
    assert run_bits is None or rows["shared"].details["run_bits"] == run_bits
    assert rows["two"].details["run_bits"] == 0  # it holds no zeros
    with container.Reader(path) as reader:
        assert reader.file(reader.header.files[0]) == (folder / "model.safetensors").read_bytes()


def test_fixed_point_needs_no_codebook(tmp_path: Path) -> None:
    values = torch.arange(-8, 8).repeat(40) * 0.125
    save_file({"w": values, "q": torch.arange(-60, 60, dtype=torch.int8).repeat(5)}, tmp_path / "m.safetensors")
    fixed = Rule("fixed_point", 0, FixedPoint(4, 0))
    path = tmp_path / "m.nac"
    header = container.write(path, files.cut(tmp_path / "m.safetensors"), {"w": fixed, "q": Rule("fixed_point", 0)})
    sizes = {row.name: row.n_bytes for row in header.files[0].tensors}
    assert sizes == {"w": 640 * 4 // 8, "q": 600 * 7 // 8}
    with container.Reader(path) as reader:
        assert reader.file(reader.header.files[0]) == (tmp_path / "m.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "rule", "said"),
    [
        ("many", Rule("fixed_point", 0, FixedPoint(8, 1)), "not on the fixed-point grid of 8 bits"),
        ("many", Rule("fixed_point", 0), "needs its bits"),
        ("special", Rule("fixed_point", 0, FixedPoint(8, 1)), "not on the fixed-point grid"),
        ("mask", Rule("fixed_point", 0), "is of type BOOL"),
    ],
)
def test_tensor_that_cannot_be_coded_is_named_and_nothing_written(
    name: str, rule: Rule, said: str, folder: Path
) -> None:
    with pytest.raises(NacdeployError, match=f"'{name}'.*{said}"):
        written(folder, **{name: rule})
    assert not (folder.parent / f"{folder.name}.nac").exists()


def test_too_many_values_for_a_code_are_named(tmp_path: Path) -> None:
    save_file({"w": torch.randn(10_000)}, tmp_path / "m.safetensors")
    with pytest.raises(NacdeployError, match="'w' cannot be coded by huffman: it has too many distinct values"):
        container.write(tmp_path / "m.nac", files.cut(tmp_path / "m.safetensors"), {"w": Rule("huffman")})


def test_any_changed_byte_is_seen(folder: Path) -> None:
    path, _ = written(folder)
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(NacdeployError, match=r"damaged|no container|version"), container.Reader(path) as reader:
            for entry in reader.header.files:
                reader.file(entry)


@pytest.mark.parametrize("n_left", [0, 5, 19, 100, -1])
def test_truncated_container_is_refused(n_left: int, folder: Path) -> None:
    path, _ = written(folder)
    path.write_bytes(path.read_bytes()[:n_left])
    with pytest.raises(NacdeployError, match=r"cut off|damaged|no container"):
        container.Reader(path)


def test_longer_container_is_refused(folder: Path) -> None:
    path, _ = written(folder)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(NacdeployError, match="instead of"):
        container.Reader(path)


def test_damaged_source_is_refused(tmp_path: Path) -> None:
    for name, content in (("m.safetensors", b"\xff" * 30), ("m.onnx", b"no graph")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NacdeployError, match="is damaged, and cannot be encoded"):
            files.cut(tmp_path / name)
        (tmp_path / name).unlink()


def test_header_is_plain_json(folder: Path) -> None:
    path, _ = written(folder)
    data = path.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    assert json.loads(data[20 : 20 + length])["files"][0]["path"] == "model.safetensors"
