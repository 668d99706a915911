"""The training loop: which epoch is kept, what a failure leaves, and where its randomness comes from."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from nacdeploy.base.errors import DivergedError
from nacdeploy.exporters.targets import grid_named
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.baseline import train_network
from nacdeploy.task import Task, training

RECIPE = TrainTable(epochs=3, learning_rate=0.1, batch_size=16, schedule="constant")


def data(n: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def module() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()


def batches(seed: int = 0) -> training.Batches:
    return training.tensor_batches(*data(), 16, seed)


class Scores:
    """Gives the scripted accuracies in turn and keeps a copy of the module at each."""

    def __init__(self, model: nn.Module, *accuracies: float) -> None:
        self._model, self._accuracies = model, iter(accuracies)
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self) -> float:
        self.seen.append(values(self._model))
        return next(self._accuracies)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("accuracies", "best"), [((0.1, 0.9, 0.2, 0.3), 1), ((0.1, 0.2, 0.9, 0.9), 2), ((0, 1, 2, 3), 3)]
)
def test_best_epoch_is_kept_as_a_real_copy(accuracies: tuple[float, ...], best: int) -> None:
    model = module()
    scores = Scores(model, *accuracies)
    fit = training.fit(model, batches(), scores, ACCURACY, RECIPE, seed=0)
    assert fit == training.Fit(3, best, accuracies[best])
    assert same(values(model), scores.seen[best])
    assert not same(scores.seen[best], scores.seen[best - 1])


def test_start_counts_as_an_epoch() -> None:
    model = module()
    start = values(model)
    fit = training.fit(model, batches(), Scores(model, 0.9, 0.1, 0.9, 0.2), ACCURACY, RECIPE, seed=0)
    assert (fit.best_epoch, fit.score) == (0, 0.9)
    assert same(values(model), start)


def test_no_epochs_leave_the_start() -> None:
    model = module()
    start = values(model)
    assert (
        training.fit(model, batches(), lambda: 0.5, ACCURACY, RECIPE.model_copy(update={"epochs": 0}), 0).n_epochs == 0
    )
    assert same(values(model), start)


@pytest.fixture
def poisoned() -> Callable[[int], Iterable[tuple[Tensor, Tensor]]]:
    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, labels in batches()(epoch):
            yield (inputs if epoch < 2 else inputs * float("nan")), labels

    return epoch_batches


def test_diverged_training_is_refused_and_undone(poisoned: training.Batches) -> None:
    model = module()
    scores = Scores(model, 0.1, 0.5)
    with pytest.raises(DivergedError, match="the loss is not a number; a lower learning_rate"):
        training.fit(model, poisoned, scores, ACCURACY, RECIPE, seed=0)
    assert same(values(model), scores.seen[1])


def test_diverged_training_leaves_evaluation_mode(poisoned: training.Batches) -> None:
    model = module()
    with pytest.raises(DivergedError):
        training.fit(model, poisoned, lambda: 0.5, ACCURACY, RECIPE, seed=0)
    assert not model.training


def trained(seed: int, order: int = 0) -> dict[str, Tensor]:
    model = module()
    accuracies = iter((0.1, 0.2, 0.3, 0.4))
    training.fit(model, batches(order), lambda: next(accuracies), ACCURACY, RECIPE, seed)
    return values(model)


def test_same_seed_gives_the_same_bits() -> None:
    first = trained(seed=3)
    torch.rand(7)
    assert same(first, trained(seed=3))


def test_seed_decides_dropout_and_order() -> None:
    assert not same(trained(seed=3), trained(seed=4))
    assert not same(trained(seed=3), trained(seed=3, order=1))


def test_training_draws_nothing_from_the_global_stream() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    trained(seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_seed_of_differs_by_run_state_and_purpose() -> None:
    seeds = {training.seed_of(run, key, purpose) for run in (0, 1) for key in "ab" for purpose in ("F", "heads")}
    assert len(seeds) == 8
    assert training.seed_of(0, "a", "F") == training.seed_of(0, "a", "F")


@pytest.mark.parametrize(("patience", "n_epochs"), [(0, 1), (1, 2), (None, 6)])
def test_early_stop_waits_for_its_patience(patience: int | None, n_epochs: int) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 6, "early_stop_patience": patience})
    assert training.fit(module(), batches(), lambda: 0.5, ACCURACY, recipe, seed=0).n_epochs == n_epochs


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_recipe_learns(schedule: str, optimizer: str) -> None:
    recipe = TrainTable.model_validate(
        {"epochs": 12, "learning_rate": 0.02, "schedule": schedule, "optimizer": optimizer, "weight_decay": 0}
    )
    model = module()
    inputs, _ = data(96)
    labels = inputs[:, :3].argmax(1)

    def accuracy() -> float:
        with torch.no_grad():
            return float((model(inputs).argmax(1) == labels).double().mean())

    start = accuracy()
    fit = training.fit(model, training.tensor_batches(inputs, labels, 16, 0), accuracy, ACCURACY, recipe, seed=0)
    assert fit.score > max(start, 0.6)
    assert accuracy() == fit.score


def test_weight_decay_spares_vectors() -> None:
    """Inputs of zero and a weight that is read by nobody: what shrinks has been decayed."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(1.0)
    zeros, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    recipe = TrainTable(epochs=1, learning_rate=0.1, momentum=0.0, weight_decay=0.5, schedule="constant")
    accuracies = iter((0.0, 1.0))
    training.fit(layer, lambda epoch: [(zeros, labels)], lambda: next(accuracies), ACCURACY, recipe, seed=0)
    torch.testing.assert_close(layer.weight, torch.full((2, 2), 0.95))
    torch.testing.assert_close(layer.bias, torch.ones(2))


def test_image_batches_follow_from_seed_and_epoch(task: Task) -> None:
    epoch_batches = training.image_batches(task.data, task.data.train, 50, seed=0)
    labels = [torch.cat([labels for _, labels in epoch_batches(epoch)]) for epoch in (1, 1, 2)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])
    assert torch.equal(labels[0].bincount(), task.data.train.labels.bincount())


@pytest.mark.parametrize(("n", "sizes"), [(32, [16, 16]), (33, [16, 17]), (34, [16, 16, 2]), (1, [1])])
def test_last_image_alone_joins_its_neighbour(n: int, sizes: list[int]) -> None:
    inputs, labels = data(n)
    assert [len(batch) for _, batch in training.tensor_batches(inputs, labels, 16, 0)(1)] == sizes


class Auxiliary(nn.Module):
    """Several outputs in training mode, one in evaluation; LeNet's view; a kernel of five axes and a complex weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.aux = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10), nn.Linear(4 * 36, 10)
        self.spectrum = nn.Parameter(torch.ones(36, dtype=torch.cfloat))
        self.volume = nn.Parameter(torch.zeros(1, 1, 1, 1, 1))

    def forward(self, x: Tensor) -> object:
        x = torch.relu(self.conv(x)).view(x.size(0), -1)
        y = self.head(x * self.spectrum.real.repeat(4)) + self.volume.sum()
        return (y, {"aux": self.aux(x)}) if self.training else y


def test_networks_of_other_shapes_and_outputs_learn(task: Task) -> None:
    network = Network(Auxiliary(), grid_named("ort"), (1, 8, 8))
    before = training.evaluation.evaluate(network, task, task.data.validation).score
    recipe = TrainTable(epochs=3, optimizer="adamw", learning_rate=0.01, batch_size=50)
    done = train_network(network, task, recipe, 0)
    assert done.score > before + 0.2
    assert next(network.parameters()).is_contiguous()


NARROW = """
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.strategies import baseline

tables = {"images": {"n_train": 64, "n_validation": 16, "input_size": 64}, "train": {"epochs": 2, "batch_size": 16}}
profile = profiles.from_mapping({"name": "narrow", "model": "resnet8", "width": 8, "data": "digits", **tables})
task = tasks.make(profile.model, profile.data, profile)
baseline.train_network(baseline.plain_network(task, profile), task, profile.train, 0)
"""


def test_training_of_a_narrow_network_on_large_images_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
