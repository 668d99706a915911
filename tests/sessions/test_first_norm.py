"""A wrong normalisation is told from the first batch norm, and a right one is left in peace."""

from dataclasses import replace

import pytest
import torch
from conftest import make_profile
from torch import nn

from nacdeploy import task as tasks
from nacdeploy.data import Dataset
from nacdeploy.data.normalization import IMAGENET, Scale, statistics
from nacdeploy.sessions import first_norm
from nacdeploy.sessions.first_norm import Normalization
from nacdeploy.strategies.baseline import plain_network, train_network

TRAINED = {
    "data": {"mean": "data", "std": "data"},
    "0.5/0.5": {"mean": 0.5, "std": 0.5},
    "0/1": {"mean": 0.0, "std": 1.0},
    "0/0.00392157": {"mean": 0.0, "std": 1 / 255},
    "0.449/0.226": {"mean": 0.449, "std": 0.226},
    "imagenet": {"mean": "imagenet", "std": "imagenet"},
}


def trained(option: str, model: str = "resnet8") -> tuple[nn.Module, Dataset]:
    """A network trained on images normalised as `--normalize` says, and these images."""
    profile = make_profile(model=model, width=None if ":" in model else 8, images=TRAINED[option])
    task = tasks.make(model, "digits", profile)
    network = plain_network(task, profile)
    train_network(network, task, profile.train, profile.seed)
    return network.backbone.eval(), task.data


def under(data: Dataset, mean: Scale, std: Scale) -> Dataset:
    n = data.channels
    return replace(data, mean=mean * n if len(mean) == 1 else mean, std=std * n if len(std) == 1 else std)


@pytest.mark.parametrize("option", TRAINED)
def test_mismatch_names_the_normalisation_of_the_training_and_is_quiet_under_it(option: str) -> None:
    backbone, data = trained(option)
    assert first_norm.mismatch(backbone, data) is None
    wrong = [statistics(data.train.images), ((0.5,), (0.5,)), ((0.0,), (1.0,)), ((0.0,), (1 / 255,))]
    wrong += [IMAGENET] if data.channels == 3 else [((0.449,), (0.226,))]
    others = [other for scale in wrong if (other := under(data, *scale)).mean != data.mean or other.std != data.std]
    found = [first_norm.mismatch(backbone, other) for other in others]
    assert [one and one.better and one.better.option for one in found] == [option] * len(others)
    assert len(others) >= 4


def test_mismatch_in_words_names_the_keys_and_the_option() -> None:
    backbone, data = trained("0.5/0.5")
    text = str(first_norm.mismatch(backbone, under(data, *statistics(data.train.images))))
    assert "the images reach 'stem.1' otherwise than in the checkpoint's training" in text
    assert text.endswith("set images.mean = 0.5 and images.std = 0.5, or --normalize 0.5/0.5")


def test_mismatch_names_what_the_library_says_of_the_network_when_that_is_nearest() -> None:
    backbone, data = trained("data")
    wrong = under(data, (0.0,), (1 / 255,))
    theirs = Normalization("model", data.mean, data.std)
    found = first_norm.mismatch(backbone, wrong, [theirs])
    assert found is not None
    assert found.better is theirs


def test_mismatch_says_that_none_is_nearer_when_images_are_of_another_kind() -> None:
    backbone, data = trained("data")
    other = replace(data, train=replace(data.train, images=torch.zeros_like(data.train.images)))
    found = first_norm.mismatch(backbone, other)
    assert found is not None
    assert found.better is None
    assert "unless the images are of another kind" in str(found)


@pytest.mark.parametrize(
    "backbone",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.Flatten()),
    ],
)
def test_mismatch_is_none_when_no_norm_remembers_anything(backbone: nn.Module) -> None:
    data = tasks.make("resnet8", "digits", make_profile()).data
    assert first_norm.arrival(backbone.eval(), data) is None
    assert first_norm.mismatch(backbone.eval(), under(data, (0.0,), (1 / 255,))) is None


class ByKeyword(nn.Module):
    """Calls its norm by the name of its argument."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.stem = backbone.stem

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem[1](input=self.stem[0](x))  # type: ignore[index]


def test_arrival_is_seen_when_the_norm_is_called_by_keyword() -> None:
    backbone, data = trained("data")
    plain, named = first_norm.arrival(backbone, data), first_norm.arrival(ByKeyword(backbone), data)
    assert plain == named
    assert plain is not None


def test_arrival_leaves_no_hook_behind_and_the_network_as_it_was() -> None:
    backbone, data = trained("data")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert first_norm.arrival(backbone, data) is not None
    assert all(not module._forward_pre_hooks for module in backbone.modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
