"""What a recipe may add to the steps of a training: each does what it says, and is part of the key once it is on."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import follow, make_profile
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.targets import grid_named
from nacdeploy.metrics import ACCURACY, named
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.operators.add_exits.settings import ExitRecipe
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task, training, trainings
from nacdeploy.task.loop import mixing, optimizers
from nacdeploy.task.loop.steps import Steps

ON: dict[str, Any] = {
    "minutes": 5.0,
    "precision": "bf16",
    "accumulate": 2,
    "clip_norm": 1.0,
    "ema": 0.9,
    "warmup_steps": 3,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "layer_decay": 0.7,
}


def recipe(**keys: Any) -> TrainTable:
    plain = {"epochs": 1, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    return TrainTable.model_validate({**plain, **keys})


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def batches(size: int, n: int = 24) -> training.Batches:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)
    return lambda epoch: [*zip(x.split(size), y.split(size), strict=True)]


def trained(how: TrainTable, size: int = 8, n: int = 24) -> nn.Sequential:
    """The network after a training whose last epoch counts as the best."""
    model, counts = net(), iter(range(100))
    training.fit(model, batches(size, n), lambda: next(counts), ACCURACY, how, seed=0)
    return model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("size", "n"), [(4, 24), (5, 24)])
def test_accumulated_batches_step_as_one(size: int, n: int) -> None:
    """Of uneven batches too: 5, 5, 5, 5, 4 samples in steps of two are steps of 10, 10 and 4."""
    together, apart = trained(recipe(), 2 * size, n), trained(recipe(accumulate=2), size, n)
    torch.testing.assert_close(flat(apart), flat(together), rtol=1e-5, atol=1e-7)


def test_clipped_step_has_the_length_of_the_limit() -> None:
    moved = flat(trained(recipe(clip_norm=1e-3), size=24)) - flat(net())
    assert float(moved.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)
    free = flat(trained(recipe(), size=24)) - flat(net())
    torch.testing.assert_close(functional.cosine_similarity(moved, free, dim=0), torch.tensor(1.0))


def test_rate_warms_up_step_by_step() -> None:
    model = net()
    made = optimizers.optimizer(model, recipe())
    steps, rates = Steps.of(made, recipe(warmup_steps=3), model), []
    for _ in range(5):
        rates.append(made.param_groups[0]["lr"])
        steps.take(model)
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_schedule_goes_on_from_the_whole_rate_behind_the_warm_up() -> None:
    model, how = net(), recipe(warmup_steps=2, schedule="cosine", epochs=4)
    made = optimizers.optimizer(model, how)
    steps, schedule, rates = Steps.of(made, how, model), optimizers.schedule(made, how, True), []
    for _ in range(4):
        for _ in range(2):
            steps.take(model)
        rates.append(made.param_groups[0]["lr"])
        schedule.step(0.0)
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)])


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_average_of_all_steps_is_kept_and_leaves_their_path_alone(n_epochs: int) -> None:
    average = flat(net())
    for n in range(1, 3 * n_epochs + 1):
        model, counts, some = net(), iter(range(9)), [*batches(8)(1), *batches(8)(1)][:n]
        training.fit(model, lambda epoch, some=some: some, lambda c=counts: next(c), ACCURACY, recipe(), 0)
        average = 0.8 * average + 0.2 * flat(model)
    torch.testing.assert_close(flat(trained(recipe(ema=0.8, epochs=n_epochs))), average)


def test_rates_fall_by_blocks_from_the_end() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 2, 1)
            self.layer1 = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
            self.head = nn.Linear(2, 2)

    model = Blocks()
    made = optimizers.optimizer(model, recipe(layer_decay=0.5, weight_decay=0.1))
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert found["head.weight"] == (0.1, 0.1) and found["head.bias"] == (0.1, 0.0)
    assert found["layer1.1.0.weight"] == (0.05, 0.1) and found["layer1.1.1.weight"] == (0.05, 0.0)
    assert found["layer1.0.weight"] == (0.025, 0.1) and found["stem.bias"] == (0.0125, 0.0)


def test_blocks_of_a_compressed_network_are_those_of_its_backbone() -> None:
    network = Network(net(), grid_named("ort"), (6,))
    made = optimizers.optimizer(network, recipe(layer_decay=0.5))
    assert sorted({group["lr"] for group in made.param_groups}) == [0.05, 0.1]


def test_smoothed_labels_have_the_loss_of_torch_s_own() -> None:
    outputs, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    smoothed = ACCURACY.loss(outputs, ACCURACY.softened(labels, 4, 0.1))
    torch.testing.assert_close(smoothed, functional.cross_entropy(outputs, labels, label_smoothing=0.1))


@pytest.mark.parametrize("keys", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_images_have_labels_in_the_same_shares(keys: dict[str, float]) -> None:
    """Images of one value each: the mean of a mixed one says how much of which is in it."""
    labels = torch.arange(4)
    images = (10.0**labels).reshape(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()

    def plain(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from [(images, labels)] * 6

    for mixed, shares in mixing.softened(plain, recipe(**keys), ACCURACY, 4)(1):
        torch.testing.assert_close(shares.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ (10.0 ** torch.arange(4)))


def test_teacher_that_teaches_alone_answers_mixed_images_of_any_task() -> None:
    images = torch.eye(4).reshape(4, 1, 2, 2)
    mixing.check(recipe(mixup=0.4), named("mae"), True, is_labelled=False)
    ((mixed, labels),) = mixing.mixed(lambda epoch: [(images, object())], recipe(mixup=0.4))(1)
    assert labels is None and mixed.shape == images.shape and not torch.equal(mixed, images)
    torch.testing.assert_close(mixed.sum((1, 2, 3)), torch.ones(4))
    with pytest.raises(UsageError, match="let the float network teach alone"):
        mixing.check(recipe(label_smoothing=0.1), named("mae"), True, is_labelled=False)


def test_recipe_that_does_not_go_with_the_task_is_one_line() -> None:
    with pytest.raises(UsageError, match="are for tasks with classes; metric 'mean absolute error' has none"):
        mixing.check(recipe(label_smoothing=0.1), named("mae"), True)
    with pytest.raises(UsageError, match="this task's inputs are none"):
        mixing.check(recipe(mixup=0.1), ACCURACY, False)


@pytest.mark.parametrize("key", ["label_smoothing", "mixup", "cutmix", "layer_decay"])
def test_head_has_no_recipe_of_a_whole_network(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is for whole networks"):
        ExitRecipe.model_validate({key: ON[key]})


def test_minutes_that_are_over_end_a_training_behind_its_step() -> None:
    model, seen, counts = net(), list[int](), iter(range(9))

    def one(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(8)(epoch):
            seen.append(epoch)
            yield batch

    fit = training.fit(model, one, lambda: next(counts), ACCURACY, recipe(minutes=1e-9, epochs=5), 0)
    assert (fit.n_epochs, fit.best_epoch, seen) == (1, 1, [1])
    assert not torch.equal(flat(model), flat(net())) and not model.training


def test_bf16_trains_as_float_within_its_digits() -> None:
    """8 bits of mantissa: steps differ by a hundredth or so, and parameters stay float32."""
    start, whole, mixed = (
        flat(net()),
        flat(trained(recipe(epochs=3))),
        flat(trained(recipe(epochs=3, precision="bf16"))),
    )
    assert mixed.dtype == torch.float32 and not torch.equal(whole, mixed)
    assert float((mixed - whole).norm()) < 0.02 * float((whole - start).norm())


@pytest.mark.parametrize("word", ["QF", "S(pattern=element,ratio=0.5)QF", "C(bits=4)F", "F(distill=0.5)"])
def test_everything_at_once_trains_what_is_compressed(word: str, baseline: CompressionState, task: Task) -> None:
    keys = {key: value for key, value in ON.items() if key != "minutes"}
    profile = make_profile(finetune={**keys, "epochs": 2, "early_stop_patience": None})
    state = CompressionState(baseline.network, baseline.metrics, baseline.metrics, origin=baseline.network)
    done = follow(state, word, task, profile)
    assert (
        done.metrics.score > baseline.metrics.score - 0.2
        and done.network.sparsity == follow(state, word.rpartition("F")[0] or "", task, profile).network.sparsity
    )


@pytest.mark.parametrize("key", ON)
def test_key_that_is_on_is_part_of_the_training_s_key_and_one_that_is_off_is_not(
    key: str, baseline: CompressionState, task: Task
) -> None:
    asked: list[str] = []

    class Asked:
        def training(self, key: str, make: Any) -> Any:
            asked.append(key)
            return make()

        def metrics(self, key: str, make: Any) -> Any:
            return make()

    for given in ({}, {key: TrainTable.later[key]}, {key: ON[key]}):
        follow(baseline, "F", task, make_profile(finetune={"epochs": 1, **given}), memory=Asked())
    first, off, on = asked
    assert first == off and on != first
    assert key not in FinetuneTable().model_dump() and FinetuneTable(**{key: ON[key]}).model_dump()[key] == ON[key]


def test_loop_of_one_s_own_is_told_the_whole_recipe() -> None:
    keys = {key: value for key, value in ON.items() if key != "minutes"}
    settings = trainings.settings_of(recipe(**keys), 0, None, None)
    assert {key: getattr(settings, key) for key in keys} == keys
