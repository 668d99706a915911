"""Checkpoints as training scripts leave them: wrappers, prefixes, suffixes, and what lies beside the weights."""

import argparse
import datetime
import os
import types
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError
from nacdeploy.models.external import GrayToColor
from nacdeploy.strategies.steps import checkpoint


class Net(nn.Module):
    """Convolution, norm and head."""

    def __init__(self, n_classes: int = 5) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.h = nn.Linear(4, n_classes)


class Attributes(dict):  # type: ignore[type-arg]
    """What many trainers keep settings in."""


def good(n_classes: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return Net(n_classes).state_dict()


def prefixed(prefix: str, values: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in (values or good()).items()}


def loaded(path: Path, net: nn.Module | None = None, **options: Any) -> tuple[str, ...]:
    """What was said; the values are the good ones."""
    net = net or Net()
    notes = checkpoint.load_plain(path, net, **options).notes
    kept = {name.removeprefix("model."): value for name, value in net.state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in good().items())
    return notes


FILES: dict[str, tuple[Callable[[], Any], str]] = {
    "compiled.pt": (lambda: prefixed("_orig_mod."), ""),
    "ddp_compiled.pt": (lambda: prefixed("module._orig_mod."), "without their 'module.'"),
    "compiled_within.pt": (lambda: {name.replace("a.", "a._orig_mod."): value for name, value in good().items()}, ""),
    "lightning.ckpt": (
        lambda: {"state_dict": {**prefixed("model."), "loss.weight": torch.ones(5)}, "hyper_parameters": {"lr": 0.1}},
        "passed over: 'loss.weight'",
    ),
    "deep.pt": (lambda: {"state_dict": prefixed("model.net.")}, "without their 'model.net.'"),
    "cifar.pt": (lambda: {"net": good(), "acc": 97.1}, "weights under 'net'"),
    "ema.pt": (lambda: {"ema": good(), "updates": 3}, "weights under 'ema'"),
    "model_ema.pth": (lambda: {"model_ema": prefixed("module.") | {"n_averaged": torch.tensor(3)}}, "'n_averaged'"),
    "any.pt": (lambda: {"some_name": {"of_its_own": good()}}, "weights under 'some_name.of_its_own'"),
    "nested.pt": (lambda: {"model": {"state_dict": good()}}, "weights under 'model.state_dict'"),
    "both.pt": (
        lambda: {"model_ema": good(), "model": good(), "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
        "'model_ema' would fit as well",
    ),
    "model_best.pth.tar": (lambda: {"state_dict": good(), "epoch": 3}, "weights under 'state_dict'"),
    "UPPER.PT": (good, ""),
    "weights": (good, ""),
    "no_batches.pt": (lambda: {k: v for k, v in good().items() if "num_batches" not in k}, ""),
    "thop.pt": (
        lambda: {**good(), "total_ops": torch.zeros(1), "a.0.total_params": torch.zeros(1)},
        "'total_ops', 'a.0.to",
    ),
    "numpy_number.pt": (lambda: {"state_dict": good(), "best_acc": np.float64(0.97)}, "weights under 'state_dict'"),
    "numpy_array.pt": (lambda: {"state_dict": good(), "losses": np.arange(3.0)}, "weights under 'state_dict'"),
    "namespace.pt": (lambda: {"model": good(), "args": argparse.Namespace(lr=0.1, out=Path("x"))}, "under 'model'"),
    "simple_namespace.pt": (lambda: {"model": good(), "args": types.SimpleNamespace(lr=0.1)}, "under 'model'"),
    "dict_of_a_trainer.pt": (lambda: {"model": good(), "args": Attributes(lr=0.1)}, "under 'model'"),
    "defaults.pt": (lambda: {"model": good(), "log": defaultdict(list, {"loss": [0.5]})}, "under 'model'"),
    "schedule.pt": (lambda: {"model": good(), "until": datetime.datetime(2026, 1, 1)}, "under 'model'"),
    "counted.pt": (lambda: {**good(), "epoch": 3}, ""),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "older format"])
@pytest.mark.parametrize("name", FILES)
def test_checkpoint_of_a_trainer_is_taken_and_told(name: str, zipped: bool, tmp_path: Path) -> None:
    content, said = FILES[name]
    torch.save(content(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    notes = loaded(tmp_path / name)
    assert said in "; ".join(notes)
    assert bool(notes) == bool(said) or "without" in notes[0]


@pytest.mark.parametrize("name", ["w.safetensors", "w.SAFETENSORS", "w"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors_are_taken_whatever_they_are_called(name: str, prefix: str, tmp_path: Path) -> None:
    save_file(prefixed(prefix), tmp_path / name)
    loaded(tmp_path / name)


def test_weights_for_colour_images_fit_the_network_that_takes_grey_ones(tmp_path: Path) -> None:
    torch.save(good(), tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt", GrayToColor(Net())) == ("names without 'model.'",)


def test_tied_weights_may_be_there_once(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        net = nn.ModuleDict({"first": nn.Linear(3, 3, bias=False), "second": nn.Linear(3, 3, bias=False)})
        net["second"].weight = net["first"].weight
        return net

    net = tied()
    save_file({"first.weight": torch.eye(3)}, tmp_path / "w.safetensors")
    checkpoint.load_plain(tmp_path / "w.safetensors", net)
    assert torch.equal(net.state_dict()["second.weight"], torch.eye(3))


class Bomb:
    """Unpickling this would make a folder."""

    def __init__(self, made: Path, through: Callable[..., Any]) -> None:
        self._made, self._through = made, through

    def __reduce__(self) -> Any:
        return self._through, (self._made,)


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "older format"])
@pytest.mark.parametrize("through", [Path.touch, Path.mkdir, os.mkdir], ids=["touch", "mkdir", "os"])
def test_code_beside_weights_is_never_run(through: Any, zipped: bool, tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"model": good(), "x": Bomb(made, through)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    try:
        loaded(tmp_path / "w.pt")
    except UsageError as error:
        assert "could run code" in str(error)
        assert "it names '" in str(error)
    assert not made.exists()


def test_head_of_other_classes_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    torch.save(good(10), tmp_path / "w.pt")
    with pytest.raises(
        UsageError, match=r"'h.weight' is \(10, 4\), the model has \(5, 4\): it knows other classes; --new-"
    ):
        checkpoint.load_plain(tmp_path / "w.pt", Net())
    net = Net()
    own = net.h.weight.clone()
    found = checkpoint.load_plain(tmp_path / "w.pt", net, new_head=True)
    assert found.new_head == ("h.weight", "h.bias")
    assert "a new head in place of 'h.weight', 'h.bias'" in found.notes
    assert torch.equal(net.h.weight, own)
    assert torch.equal(net.a[0].weight, good(10)["a.0.weight"])


def test_other_layers_that_differ_are_not_replaced_with_the_head(tmp_path: Path) -> None:
    torch.save({**good(10), "a.0.weight": torch.zeros(9, 1, 3, 3)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"'a.0.weight' is \(9, 1, 3, 3\), the model has"):
        checkpoint.load_plain(tmp_path / "w.pt", Net(), new_head=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda v: {name.replace("a.0", "a.first"): value for name, value in v.items()},
            r"'a.0.weight' \(and 1 more\) is missing; nearest in it: 'a.1.weight'|nearest in it: 'a.first.weight'",
        ),
        (
            lambda v: {f"x{n}": value for n, value in enumerate(v.values())},
            r"names begin with 'x0', 'x1', 'x2' and 6 more",
        ),
        (lambda v: {**v, "a.2.weight": torch.ones(1)}, r"'a.2.weight' is not of this model; nearest: 'a.\d.weight'"),
    ],
    ids=["renamed", "another model", "surplus"],
)
def test_mismatch_names_the_first_names_and_the_nearest(change: Any, said: str, tmp_path: Path) -> None:
    torch.save(change(good()), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=said) as refusal:
        checkpoint.load_plain(tmp_path / "w.pt", Net())
    assert "--width" not in str(refusal.value)


def test_flipped_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    torch.save(good(), tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    value = good()["a.0.weight"].numpy().tobytes()
    content[bytes(content).index(value) + 5] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UsageError, match=r"is damaged: the checksum of '.*data/0' in it is another"):
        checkpoint.load_plain(tmp_path / "w.pt", Net())


def test_archive_that_was_written_without_checksums_is_taken(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(good(), tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        assert archive.testzip() is not None
    loaded(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_program_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(UsageError, match="a TorchScript program"):
        checkpoint.load_plain(tmp_path / "w.pt", Net())
