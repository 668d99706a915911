"""How a command's images are normalised and labelled: what is asked, taken by default, said and recorded."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import lay_out
from conftest import make_profile
from PIL import Image
from torch import nn

import nacdeploy
from nacdeploy import api, models
from nacdeploy import data as datasets
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Bar
from nacdeploy.data.normalization import IMAGENET
from nacdeploy.exporters import bench
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.profile.tables.training import DataTable
from nacdeploy.sessions import preprocessing, session
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.session import open_session
from nacdeploy.sessions.setup import wanted
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps.advance import context

NET = """
from torch import nn

def net(n_classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, n_classes))
"""
HALF = (0.5, 0.5)


@dataclass
class Said:
    """A progress that keeps its lines."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def bar(self, title: str) -> Iterator[Bar]:
        yield Quiet()

    def of(self, word: str) -> list[str]:
        return [line for line in self.lines if word in line]


class Quiet:
    def update(self, done: int, total: int, text: str = "") -> None:
        """Shows nothing."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a profile of seconds and a network's file."""
    lay_out(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoint(folder: Path) -> tuple[str, float]:
    """Weights of an ordinary training script that took mean and deviation for 0.5, and their accuracy there."""
    digits = datasets.load("digits", DataTable(n_train=200, n_validation=100, n_test=60, input_size=8))
    x, y = (digits.train.images.float() / 255 - 0.5) / 0.5, digits.train.labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models.name_by_user("net.py:net")
        model: nn.Module = models.resolve("net.py:net", n_classes=10, channels=1, input_size=(8, 8)).build()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(40):
            for part in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
    torch.save(model.state_dict(), "weights.pt")
    answers = model.eval()((digits.validation.images.float() / 255 - 0.5) / 0.5).argmax(1)
    return "weights.pt", float((answers == digits.validation.labels).double().mean())


def given(**options: Any) -> Options:
    return Options(profile="tiny.toml", wandb=False, **options)


def opened(options: Options) -> tuple[session.Session, Said]:
    said = Said()
    return open_session(wanted(options, "Q"), said), said


def test_given_network_scores_as_its_script_says_under_its_own_normalisation(checkpoint: tuple[str, float]) -> None:
    path, accuracy = checkpoint
    theirs, said = opened(given(model="net.py:net", width=None, checkpoint=path, normalize="0.5/0.5"))
    assert theirs.baseline.metrics.score == pytest.approx(accuracy)
    assert said.of("images normalised by mean 0.5 and deviation 0.5: as images.mean and images.std say")
    assert said.of(f"baseline net.py:net from weights.pt: {100 * accuracy:.2f} % on validation")
    assert not said.of("warning")


def test_wrong_normalisation_of_a_given_network_is_named_with_the_keys_to_set(checkpoint: tuple[str, float]) -> None:
    path, accuracy = checkpoint
    wrong, said = opened(given(model="net.py:net", checkpoint=path))
    assert wrong.baseline.metrics.score < accuracy
    assert said.of("the training images' own")
    (line,) = said.of("warning")
    assert "set images.mean = 0.5 and images.std = 0.5, or --normalize 0.5/0.5" in line


def test_baseline_near_chance_is_said(folder: Path) -> None:
    models.name_by_user("net.py:net")
    torch.save(models.resolve("net.py:net", n_classes=10, channels=1, input_size=(8, 8)).build().state_dict(), "new.pt")
    _, said = opened(given(model="net.py:net", checkpoint="new.pt"))
    assert said.of("% on validation, near the ")


def test_normalisation_is_recorded_and_found_again(checkpoint: tuple[str, float]) -> None:
    theirs, _ = opened(given(model="net.py:net", checkpoint=checkpoint[0], normalize="0.5/0.5"))
    record = checkpoints.read_record(theirs.baseline_folder)
    assert (record.data["mean"], record.data["std"]) == ([0.5], [0.5])
    assert session.task_of(record).data.mean == (0.5,)
    again, said = opened(given(checkpoint=str(theirs.baseline_folder)))
    assert again.task.data.mean == (0.5,)
    assert again.baseline.metrics.score == theirs.baseline.metrics.score
    assert not said.of("warning")


def test_option_beats_what_a_checkpoint_folder_recorded(checkpoint: tuple[str, float]) -> None:
    theirs, _ = opened(given(model="net.py:net", checkpoint=checkpoint[0], normalize="0.5/0.5"))
    other, said = opened(given(checkpoint=str(theirs.baseline_folder), normalize="0/1"))
    assert (other.task.data.mean, other.task.data.std) == ((0.0,), (1.0,))
    assert said.of("warning")


def test_checkpoint_folder_brings_its_normalisation_to_other_data(folder: Path) -> None:
    trained = api.train(profile="tiny.toml", epochs=1)
    mean = checkpoints.read_record(trained).data["mean"]
    Path("small").mkdir()
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / "small" / str(label)).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 60, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "small" / str(label) / f"{i}.png")
    there, said = opened(given(checkpoint=str(trained), data="folder:small"))
    assert list(there.task.data.mean) == mean
    assert said.of("the checkpoint's own")


@pytest.mark.parametrize(("is_given", "mean"), [(True, [0.5, 0.5, 0.5]), (False, None)])
def test_network_of_a_library_takes_its_own_with_a_checkpoint_only(is_given: bool, mean: Any) -> None:
    why, tables = preprocessing.settled(make_profile(model="timm:test_vit", width=None), None, is_given)
    assert tables["images"].get("mean") == mean
    assert why == ("the network's own by timm" if is_given else "the training images' own")


def test_colour_network_of_a_library_reads_grey_images_as_it_was_trained(folder: Path) -> None:
    import timm

    torch.save(timm.create_model("test_efficientnet", num_classes=10).state_dict(), "timm.pt")
    theirs, said = opened(given(model="timm:test_efficientnet", checkpoint="timm.pt"))
    data = theirs.task.data
    assert (data.channels, data.mean, data.std) == (3, *IMAGENET)
    assert said.of("the network's own by timm")
    grey = datasets.load("digits", DataTable(n_train=200, n_validation=100, n_test=60, input_size=8))
    pixels = grey.train.images[:2].expand(-1, 3, -1, -1).float() / 255
    mean, std = (torch.tensor(scale).view(3, 1, 1) for scale in IMAGENET)
    assert torch.allclose(data.normalize(data.train.images[:2]), (pixels - mean) / std, atol=1e-6)


def test_keys_of_trainings_hold_the_normalisation(folder: Path) -> None:
    plain, other = opened(given())[0], opened(given(normalize="0.5/0.5"))[0]
    assert plain.baseline_folder != other.baseline_folder
    assert context(plain.task) != context(other.task)
    assert opened(given(normalize="data"))[0].baseline_folder == plain.baseline_folder


def test_keys_of_trainings_hold_the_labels(folder: Path) -> None:
    Path("names.txt").write_text("\n".join([*map(str, range(9, -1, -1))]))
    plain, other = opened(given())[0], opened(given(classes="names.txt"))[0]
    assert plain.baseline_folder != other.baseline_folder
    assert context(plain.task) != context(other.task)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("imagenet", {"mean": "imagenet", "std": "imagenet"}),
        ("0.5/0.25", {"mean": [0.5], "std": [0.25]}),
        ("0.1,0.2,0.3/1", {"mean": [0.1, 0.2, 0.3], "std": [1.0]}),
        (None, {}),
    ],
)
def test_asked_reads_the_option(text: str | None, keys: dict[str, Any]) -> None:
    assert preprocessing.asked(text, None) == keys


@pytest.mark.parametrize("text", ["imagnet", "0.5", "0.5/0.5/0.5", "a/b", "", "/", "0.5,/1"])
def test_asked_fails_when_the_option_is_no_normalisation(text: str) -> None:
    with pytest.raises(UsageError, match=r"--normalize takes imagenet, data, model or MEAN/STD such as 0\.5/0\.25"):
        preprocessing.asked(text, None)


@pytest.mark.parametrize("text", ["0.5/0", "0.5/-1", "0.1,0.2/0.5", "nan/1", "0/inf"])
def test_profile_refuses_numbers_that_cannot_normalise(folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"images\.(mean|std): takes a number"):
        wanted(given(normalize=text))


def oblong(root: Path) -> None:
    """Colour images of 12x20, four for each of the classes 1, 3 and 4 of a network that tells six apart."""
    rng = np.random.default_rng(0)
    for label in ("1", "3", "4"):
        (root / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 80, (12, 20, 3), dtype=np.uint8) + np.uint8(40 * int(label))
            Image.fromarray(pixels).save(root / label / f"{i}.png")


def test_artifact_tells_how_its_images_are_taken_and_every_output_counts(folder: Path) -> None:
    oblong(folder / "photos")
    Path("tiny.toml").write_text(
        Path("tiny.toml").read_text().replace("input_size = 8\n", 'classes = "index"\nn_classes = 6\n')
    )
    shared: dict[str, Any] = {"model": "net.py:net", "data": "folder:photos", "profile": "tiny.toml", "wandb": False}
    result = nacdeploy.transfer(strategy="Q", normalize="imagenet", **shared)
    path = nacdeploy.export(source=result.folder, target="ort", wandb=False)
    manifest, _ = artifact.load(path)
    taken = manifest.preprocessing
    assert (taken.height, taken.width, taken.channels, taken.bits) == (12, 20, 3, 8)
    assert (taken.mean, taken.std) == IMAGENET
    assert manifest.inputs[0].shape == ("batch", 3, 12, 20)
    assert manifest.outputs[0].shape == ("batch", 6)
    assert manifest.class_names == ("0", "1", "2", "3", "4", "5")
    assert "images 12x20, 3 channels: pixels / 255, less mean 0.485, 0.456, 0.406, over" in api.show(str(path)).lines[2]
    record = checkpoints.read_record(Path(result.checkpoint))
    assert (record.model.n_classes, record.model.input_size) == (6, (12, 20))
    (row,) = nacdeploy.bench([path], batch=1).rows[1:]
    assert row.score == pytest.approx(result.scores.compressed)


def test_bench_takes_images_as_each_artifact_does() -> None:
    data = datasets.load("digits", DataTable(n_train=50, n_validation=20, n_test=20))
    taken = artifact.Preprocessing(16, 16, 1, HALF[:1], HALF[1:])
    manifest = artifact.Manifest(target="ort", model_file="m", inputs=(), outputs=(), preprocessing=taken)
    images = bench.as_taken(manifest, data).normalize(data.test.images)
    assert torch.allclose(images, (data.test.images.float() / 255 - 0.5) / 0.5)


def test_run_goes_on_with_its_normalisation_whatever_is_said_now(folder: Path) -> None:
    first = nacdeploy.search(profile="tiny.toml", wandb=False, budget=1, out="found", normalize="0.5/0.5", max_drop=90)
    run = json.loads(Path("found/run.json").read_text())
    assert (run["asked"]["normalize"], run["profile"]["images"]["mean"]) == ("0.5/0.5", 0.5)
    again = nacdeploy.search(resume="found", wandb=False, budget=2)
    assert again.baseline_checkpoint == first.baseline_checkpoint


def test_normalisation_in_a_checkpoint_that_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"mean \[0.5\] and std \[0.0\], is none: give --normalize"):
        preprocessing._normalised(DataTable(), [0.5], [0.0])
