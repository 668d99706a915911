"""Trainings that are interrupted: whatever moment it is, the end is that of a training that nobody interrupted."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import make_profile
from torch import Tensor, nn

from nacdeploy.metrics import ACCURACY
from nacdeploy.network.network import content
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.task import Task, training
from nacdeploy.task.loop import unfinished
from nacdeploy.task.loop.unfinished import Unfinished

N_BATCHES, EPOCHS = 4, 5


@dataclass
class Kept:
    """A shelf in memory."""

    key: str = "training"
    data: bytes | None = None

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        self.data = data

    def drop(self) -> None:
        self.data = None


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "EVERY_S", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 1, 6, 6, generator=generator), torch.randint(0, 3, (64,), generator=generator)


def module() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, 4, 1), nn.Flatten())
        return nn.Sequential(*body, nn.Linear(64, 3)).eval()


class Killed(BaseException):
    pass


@dataclass
class Training:
    """A training that counts its batches, and ends at one of them if asked."""

    recipe: TrainTable
    shelf: Kept
    n_run: int = 0
    lines: tuple[str, ...] = ()

    def run(self, kill_at: int | None = None) -> tuple[dict[str, Tensor], training.Fit]:
        model, images, labels = module(), *data()

        def batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
            for batch in training.tensor_batches(images, labels, 16, seed=3)(epoch):
                if self.n_run == kill_at:
                    raise Killed
                self.n_run += 1
                yield batch

        def score() -> float:
            with torch.no_grad():
                return ACCURACY.score(model(images), labels)

        kept = Unfinished(self.shelf, say=lambda line: setattr(self, "lines", (*self.lines, line)))
        fit = training.fit(model, batches, score, ACCURACY, self.recipe, 7, unfinished=kept)
        return {name: value.clone() for name, value in model.state_dict().items()}, fit


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


RECIPES = {
    "sgd, plateau": {"schedule": "plateau", "plateau_patience": 0},
    "sgd, cosine": {"schedule": "cosine"},
    "adamw, cosine": {"optimizer": "adamw", "schedule": "cosine", "learning_rate": 0.01},
    "average": {"ema": 0.7, "schedule": "cosine"},
    "warm-up, accumulation, clipping": {"warmup_steps": 6, "accumulate": 2, "clip_norm": 0.5, "schedule": "plateau"},
    "bf16, decay by layers": {"precision": "bf16", "layer_decay": 0.5, "optimizer": "adamw", "learning_rate": 0.01},
    "stops early": {"early_stop_patience": 1, "learning_rate": 0.3},
}


def recipe(name: str) -> TrainTable:
    return TrainTable.model_validate({"epochs": EPOCHS, "learning_rate": 0.05, **RECIPES[name]})


@pytest.mark.parametrize("name", RECIPES)
def test_training_interrupted_at_any_moment_ends_with_the_same_weights(name: str) -> None:
    whole, fit = Training(recipe(name), Kept()).run()
    moments = [1, N_BATCHES, N_BATCHES + 1, 2 * N_BATCHES + 3, 4 * N_BATCHES - 1]
    for moment in moments:
        shelf = Kept()
        torch.rand(moment)  # the process's own stream is another one each time
        killed, later = Training(recipe(name), shelf), Training(recipe(name), shelf)
        n_kept = 0
        if moment < fit.n_epochs * N_BATCHES:
            n_kept = moment // N_BATCHES
            with pytest.raises(Killed):
                killed.run(kill_at=moment)
        found, again = later.run()
        assert same(found, whole) and again == fit
        assert later.n_run == (fit.n_epochs - n_kept) * N_BATCHES


def test_training_interrupted_again_and_again_ends_with_the_same_weights() -> None:
    whole, fit = Training(recipe("sgd, plateau"), Kept()).run()
    shelf = Kept()
    for _ in range(EPOCHS - 1):
        with pytest.raises(Killed):
            Training(recipe("sgd, plateau"), shelf).run(kill_at=N_BATCHES + 1)
    found, again = Training(recipe("sgd, plateau"), shelf).run()
    assert same(found, whole) and again == fit


def test_training_that_goes_on_says_where() -> None:
    shelf = Kept()
    with pytest.raises(Killed):
        Training(recipe("sgd, cosine"), shelf).run(kill_at=2 * N_BATCHES)
    later = Training(recipe("sgd, cosine"), shelf)
    later.run()
    assert later.lines == (f"a training that was interrupted goes on behind epoch 2 of {EPOCHS}",)


def test_end_that_was_reached_is_taken_over() -> None:
    shelf = Kept()
    whole, fit = Training(recipe("stops early"), shelf).run()
    later = Training(recipe("stops early"), shelf)
    found, again = later.run()
    assert same(found, whole) and again == fit and later.n_run == 0
    assert "had come to its end" in later.lines[0]


def damaged(shelf: Kept) -> None:
    assert shelf.data is not None
    shelf.data = shelf.data[:-3] + b"abc"


def of_another(shelf: Kept) -> None:
    shelf.key = "another recipe"


@pytest.mark.parametrize(("harm", "why"), [(damaged, "does not have its hash"), (of_another, "another training")])
def test_state_of_no_use_is_dropped_with_a_line_and_the_training_begins_anew(
    harm: Callable[[Kept], None], why: str
) -> None:
    whole, _ = Training(recipe("sgd, cosine"), Kept()).run()
    shelf = Kept()
    with pytest.raises(Killed):
        Training(recipe("sgd, cosine"), shelf).run(kill_at=3 * N_BATCHES)
    harm(shelf)
    later = Training(recipe("sgd, cosine"), shelf)
    found, _ = later.run()
    assert same(found, whole) and later.n_run == EPOCHS * N_BATCHES
    (line,) = later.lines
    assert why in line and line.endswith("the training begins anew")


def test_states_are_kept_no_oftener_than_the_clock_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "EVERY_S", 1e9)
    shelf = Kept()
    Training(recipe("sgd, cosine"), shelf).run()
    assert shelf.data is None


def test_loader_s_own_generator_goes_on() -> None:
    def orders(shelf: Kept, kill: bool) -> list[Tensor]:
        generator, seen, model = torch.Generator().manual_seed(5), list[Tensor](), module()
        images, labels = data()

        def batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
            order = torch.randperm(64, generator=generator)
            seen.append(order)
            for number, part in enumerate(order.split(16)):
                if kill and (epoch, number) == (3, 2):
                    raise Killed
                yield images[part], labels[part]

        count = itertools.count()
        kept = Unfinished(shelf, [generator])
        training.fit(model, batches, lambda: float(next(count)), ACCURACY, recipe("sgd, cosine"), 0, unfinished=kept)
        return seen

    whole, shelf = orders(Kept(), False), Kept()
    with pytest.raises(Killed):
        orders(shelf, True)
    assert all(map(torch.equal, orders(shelf, False), whole[2:]))


class Memory:
    """A memory of a chain with shelves of its own."""

    def __init__(self) -> None:
        self.shelves: dict[str, Kept] = {}

    def training(self, key: str, make: Callable[[], Any]) -> Any:
        return make()

    def metrics(self, key: str, make: Callable[[], Any]) -> Any:
        return make()

    def unfinished(self, key: str) -> Unfinished:
        return Unfinished(self.shelves.setdefault(key, Kept(key)))


@pytest.mark.parametrize(
    "word",
    [
        "QF",
        "S(pattern=element,ratio=0.5)F",
        "F(distill=0.5)",
        "C(bits=4)F(ema=0.9,minutes=60)",
        "QF(mixup=0.4,cutmix=1.0,label_smoothing=0.1,distill=0.5)",
    ],
)
def test_letter_interrupted_goes_on_with_what_is_attached(
    word: str, baseline: CompressionState, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = make_profile(finetune={"epochs": 3, "early_stop_patience": None})
    state = CompressionState(baseline.network, baseline.metrics, baseline.metrics, origin=baseline.network)
    *before, last = Chain.parse(word)
    for link in before:
        state = advance(state, link, task, profile)
    whole = advance(state, last, task, profile)
    memory, seen = Memory(), list[int]()

    def report(epoch: int, n_epochs: int, score: float) -> None:
        seen.append(epoch)
        if seen == [1, 2]:
            raise Killed

    with pytest.raises(Killed):
        advance(state, last, task, profile, memory, report)
    done = advance(state, last, task, profile, memory, report)
    assert seen == [1, 2, 2, 3] and done.key == whole.key and done.steps == whole.steps
    assert same(content(done.network), content(whole.network))


def test_other_recipe_never_takes_over_a_training(baseline: CompressionState, task: Task) -> None:
    memory = Memory()
    for epochs, rate in ((2, 0.01), (3, 0.01), (2, 0.02)):
        profile = make_profile(finetune={"epochs": epochs, "learning_rate": rate})
        advance(baseline, Chain.parse("F").links[0], task, profile, memory)
    assert len(memory.shelves) == 3
