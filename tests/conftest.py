"""What the tests share: one thread, a task of seconds, and a trained baseline that no test changes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import lay_out, succeed

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.models.users import trust
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state, plain_network, train_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.task import Task

torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "name": "tiny",
    "width": 8,
    "images": {"n_train": 300, "n_validation": 150, "n_test": 60, "input_size": 8},
    "train": {"epochs": 8, "learning_rate": 0.05, "batch_size": 50},
    "finetune": {"epochs": 2, "learning_rate": 0.01, "batch_size": 50},
    "prune": {"ratio": 0.1, "multiple": 2},
    "exits": {"recipe": {"epochs": 2}},
    "settle": {"n_images": 150, "batch_size": 50},
    "quantize": {"n_calibration": 150},
    "export": {"guard": False, "exits": "whole"},  # timing decides no test
}


def make_profile(**tables: Any) -> Profile:
    """The tiny profile with some keys, or keys of some tables, in place of its own."""
    merged = {**TINY, **tables}
    for name, table in tables.items():
        if isinstance(table, dict):
            merged[name] = {**TINY.get(name, {}), **table}
    return profiles.from_mapping(merged)


def follow(state: CompressionState, word: str, task: Task, profile: Profile, **options: Any) -> CompressionState:
    """The state after every letter of `word`."""
    for link in Chain.parse(word):
        state = advance(state, link, task, profile, **options)
    return state


@pytest.fixture(scope="session", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's own folder of settings for the tests, where the model files that they name are noted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(trust.VARIABLE, str(folder := tmp_path_factory.mktemp("settings")))
        yield folder


@pytest.fixture(scope="session")
def profile() -> Profile:
    return make_profile()


@pytest.fixture(scope="session")
def task(profile: Profile) -> Task:
    return tasks.make("resnet8", "digits", profile)


@pytest.fixture(scope="session")
def baseline(task: Task, profile: Profile) -> CompressionState:
    """A trained ResNet8 of width 8 on 8x8 digits."""
    network = plain_network(task, profile)
    train_network(network, task, profile.train, profile.seed)
    return initial_state(network, task)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which search, transfer and export have run (see command_line.py); no test changes it."""
    folder = lay_out(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("search")
        succeed("transfer", "--strategy", "QEF")
        succeed("export", "--target", "ort")
    return folder


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder, as the current folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
