"""A training loop of the user's own: it trains what is compressed, and whatever it must leave has stayed."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import follow, make_profile
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nacdeploy
from nacdeploy.base import live
from nacdeploy.base.errors import DivergedError, NacdeployError, UsageError
from nacdeploy.network.network import content
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.steps.advance import Trained, context
from nacdeploy.task import Task, own, trainings

DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None] / 16
Y = torch.tensor(DIGITS.target)
TRAIN, VALIDATION = (X[:240], Y[:240]), (X[240:360], Y[240:360])
PROFILE = make_profile(finetune={"epochs": 2, "learning_rate": 0.05, "batch_size": 40})


def net() -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(128, 10)).eval()


def epochs(model: nn.Module, settings: Any, n: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9)
    for _ in range(n):
        model.train()
        for index in torch.randperm(240).split(settings.batch_size):
            loss = functional.cross_entropy(model(TRAIN[0][index]), TRAIN[1][index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def plain(model: nn.Module, settings: Any, budget: Any) -> None:
    """A script's own loop, which leaves the module in training mode."""
    epochs(model, settings, budget.epochs)


def opened(trainer: Any, **given: Any) -> Task:
    parts = {"model": net(), "train": TRAIN, "validation": VALIDATION, "test": (X[360:400], Y[360:400]), **given}
    return own.opened(live.register(nacdeploy.Task(trainer=trainer, **parts)), PROFILE)


def start(task: Task) -> Any:
    return initial_state(plain_network(task, PROFILE), task)


class Counted:
    """The memory of a search that counts the trainings."""

    def __init__(self) -> None:
        self.known: dict[str, Trained] = {}

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        self.known[key] = self.known.get(key) or make()
        return self.known[key]

    def metrics(self, key: str, make: Callable[[], Any]) -> Any:
        return make()


@pytest.mark.parametrize("word", ["QF", "P(ratio=0.25)F", "S(pattern=element,ratio=0.5)QF", "C(bits=4)F"])
def test_own_loop_trains_what_is_compressed_and_keeps_what_compresses_it(word: str) -> None:
    task = opened(plain)
    before = follow(start(task), word[:-1], task, PROFILE)
    after = follow(before, "F", task, PROFILE)
    assert after.metrics.score > before.metrics.score + 0.1 and after.steps[-1].n_epochs == 2
    assert not any(each.training for each in after.network.modules())
    fixed = {name for name in content(before.network) if name.startswith("masks") or "labels" in name}
    assert bool(fixed) == (word[0] in "SC")
    assert all(torch.equal(content(before.network)[name], content(after.network)[name]) for name in fixed)


def test_own_loop_sees_quantizers_and_the_recipe_and_is_seeded_by_it() -> None:
    seen: list[Any] = []

    def looking(model: nn.Module, settings: Any, budget: Any) -> None:
        exact = functional.linear(torch.ones(1, 8), torch.ones(1, 8))
        seen.append((settings, budget, len(model.quantizers), model(X[:4]).requires_grad, torch.rand(1), exact))
        epochs(model, settings, 1)

    task = opened(looking)
    quantized = follow(start(task), "Q", task, PROFILE)
    state = torch.random.get_rng_state()
    found = [follow(quantized, "F", task, PROFILE) for _ in range(2)]
    (settings, budget, n_quantizers, has_gradient, drawn, _), again = seen
    assert (settings.learning_rate, settings.batch_size, budget.epochs, budget.samples) == (0.05, 40, 2, 480)
    assert n_quantizers > 0 and has_gradient and torch.equal(drawn, again[4]) and settings.seed == again[0].seed
    assert found[0].key == found[1].key and found[0].steps[-1].n_epochs == 1
    assert torch.equal(state, torch.random.get_rng_state())


def test_own_loop_gets_the_teacher_where_f_distils() -> None:
    taught: list[Any] = []

    def learning(model: nn.Module, settings: Any, budget: Any) -> None:
        taught.append((settings.teacher(X[:8]), settings.distill))
        epochs(model, settings, budget.epochs)

    task = opened(learning)
    begin = start(task)
    follow(begin, "QF(distill=0.5)", task, PROFILE)
    (answers, weight), wanted = taught[0], begin.network(X[:8])
    assert weight == 0.5 and not answers.requires_grad and torch.allclose(answers, wanted, atol=1e-5)


def test_what_own_code_leaves_at_the_module_is_gone_afterwards() -> None:
    def littering(model: nn.Module, settings: Any, budget: Any) -> int:
        epochs(model, settings, budget.epochs)
        model.register_forward_hook(lambda *_: torch.zeros(1))
        model.notes = lambda: None
        model.requires_grad_(False)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return 3

    task = opened(littering)
    after = follow(start(task), "QF", task, PROFILE)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert all(each.requires_grad for each in after.network.parameters())
    assert not hasattr(after.network, "notes") and after.network(X[:2]).shape == (2, 10)


def test_two_inputs_are_given_and_answered_as_the_network_itself_does() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 16), nn.Linear(1, 16)

        def forward(self, image: Tensor, bias: Tensor) -> dict[str, Tensor]:
            return {"out": self.one(image.flatten(1)) + self.two(bias)}

    def loop(model: nn.Module, settings: Any, budget: Any) -> None:
        optimizer = torch.optim.SGD(model.train().parameters(), 0.05)
        for _ in range(budget.epochs):
            loss = (model(X[:40], bias=torch.ones(40, 1))["out"] - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    rows = [{"image": X[:40], "bias": torch.ones(40, 1), "y": torch.ones(40, 16)}]
    error = nacdeploy.Measure(lambda found, y: (found["out"] - y).abs().mean(), "error", lower_is_better=True)
    given = nacdeploy.Task(Two(), train=rows, validation=rows[:], metric=error, trainer=loop)
    task = own.opened(live.register(given), PROFILE)
    before = start(task)
    after = follow(before, "F(epochs=40)", task, PROFILE)
    assert after.metrics.score < before.metrics.score and after.steps[-1].n_epochs == 40


def test_module_comes_in_training_mode_for_a_loop_that_does_not_set_it() -> None:
    modes: list[bool] = []

    def bare(model: nn.Module, settings: Any, budget: Any) -> None:
        modes.append(all(each.training for each in model.modules()))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        functional.cross_entropy(model(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()

    task = opened(bare)
    after = follow(start(task), "QF", task, PROFILE)
    assert modes == [True] and not any(each.training for each in after.network.modules())


def test_trainer_that_is_no_function_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Task\(trainer=\) takes a function, not int"):
        opened(3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x.flatten(1))))))


def test_loop_that_separates_tied_parameters_is_refused() -> None:
    def untying(model: Any, settings: Any, budget: Any) -> None:
        epochs(model, settings, 1)
        model.backbone.two.weight = nn.Parameter(model.backbone.one.weight.detach().clone())

    task = opened(untying, model=Tied())
    with pytest.raises(UsageError, match=r"'backbone.two.weight' was .* and the same as 'backbone.one.weight', is"):
        follow(start(task), "F", task, PROFILE)


def replaced(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    model.backbone[0] = nn.Conv2d(1, 8, 3, padding=1)


def widened(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    model.backbone[6].weight = nn.Parameter(torch.zeros(10, 64))


def halved(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    model.half()


def unmasked(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    for mask in model.masks.buffers():
        mask.fill_(True)


def rescaled(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    next(iter(model.quantizers.values())).high.mul_(2)


def unquantized(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    model.rule = None


def spoilt(model: Any, settings: Any, budget: Any) -> None:
    epochs(model, settings, 1)
    with torch.no_grad():
        model.backbone[6].bias[3] = torch.nan


def forever(model: Any, settings: Any, budget: Any) -> None:
    while True:
        epochs(model, settings, 1)


def swallowing(model: Any, settings: Any, budget: Any) -> None:
    try:
        forever(model, settings, budget)
    except Exception:
        return


def copying(model: Any, settings: Any, budget: Any) -> Any:
    other = net()
    epochs(other, settings, 1)
    return other


def idle(model: Any, settings: Any, budget: Any) -> None:
    epochs(net(), settings, 1)


def raising(model: Any, settings: Any, budget: Any) -> None:
    raise KeyError("no such thing\nand more")


def leaving(model: Any, settings: Any, budget: Any) -> None:
    raise SystemExit(3)


def narrow(model: Any) -> None:
    return None


WRONG: dict[str, tuple[Any, type[NacdeployError], str]] = {
    "replaces a module": (replaced, UsageError, "replaces the module 'backbone.0'"),
    "changes a shape": (widened, UsageError, "changes the structure: 'backbone.6.weight' was (10, 128) float32, is"),
    "changes a type": (halved, UsageError, "float32, is (8, 1, 3, 3) float16"),
    "changes masks": (unmasked, UsageError, "changes 'masks."),
    "changes scales": (rescaled, UsageError, "changes 'quantizers."),
    "takes quantizers away": (unquantized, UsageError, "changes how the network is quantized or pruned"),
    "leaves no numbers": (spoilt, DivergedError, "leaves values in 'backbone.6.bias' that are not finite numbers"),
    "never ends": (forever, UsageError, "Task(trainer=): it trains beyond its budget, 2 x 240 samples"),
    "never ends, and catches errors": (swallowing, UsageError, "trains beyond its budget"),
    "returns another module": (copying, UsageError, "returns another module"),
    "trains another module": (idle, UsageError, "trains nothing: the module that it is given never runs"),
    "raises": (raising, UsageError, "Task(trainer=) fails: KeyError: 'no such thing"),
    "ends the process": (leaving, UsageError, "it ends the process (exit 3)"),
    "takes other arguments": (narrow, UsageError, "Task(trainer=) fails: TypeError: narrow() takes 1 positional"),
}


@pytest.mark.parametrize("name", WRONG)
def test_loop_that_does_what_it_must_not_is_one_line_and_loses_nothing(name: str) -> None:
    trainer, kind, said = WRONG[name]
    task = opened(trainer)
    state = follow(start(task), "S(pattern=element,ratio=0.5)Q", task, PROFILE)
    before = {key: value.clone() for key, value in content(state.network).items()}
    with pytest.raises(kind) as caught:
        trainings.fit(state.network, task, PROFILE.of(FinetuneTable), 0, lambda: 0.0)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    after = content(state.network)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert not state.network.training


TESTS: dict[str, Any] = {
    "loader": DataLoader(TensorDataset(X[400:440], Y[400:440]), batch_size=20),
    "dataset": TensorDataset(X[400:440], Y[400:440]),
    "tensors": (X[400:440], Y[400:440]),
    "batches": [(X[400:440], Y[400:440])],
}
READS: dict[str, Callable[[Any], Any]] = {
    "loader": list,
    "dataset": lambda test: test[3],
    "tensors": lambda test: test[0][:2] + 1,
    "batches": lambda test: torch.stack([test[0][0][0]]),
}


@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize("kind", TESTS)
def test_loop_that_reads_the_test_data_is_refused_and_leaves_them_readable(kind: str, catches: bool) -> None:
    test = TESTS[kind]

    def peeking(model: Any, settings: Any, budget: Any) -> None:
        epochs(model, settings, 1)
        try:
            READS[kind](test)
        except Exception:
            if not catches:
                raise

    task = opened(peeking, test=test)
    with pytest.raises(UsageError, match=r"^Task\(trainer=\): it reads the test data while networks are trained"):
        follow(start(task), "F", task, PROFILE)
    READS[kind](test)


def test_number_of_test_samples_may_be_asked_for() -> None:
    def counting(model: Any, settings: Any, budget: Any) -> None:
        assert len(TESTS["tensors"][0]) == 40 and TESTS["tensors"][0].shape[0] == 40 and len(TESTS["loader"]) == 2
        epochs(model, settings, 1)

    task = opened(counting, test=TESTS["tensors"])
    assert follow(start(task), "F", task, PROFILE).steps[-1].n_epochs == 1


def test_data_that_also_hold_the_training_split_stay_open() -> None:
    whole = TensorDataset(X, Y)
    part = lambda a, b: torch.utils.data.Subset(whole, range(a, b))  # noqa: E731

    def loop(model: Any, settings: Any, budget: Any) -> None:
        assert len(whole[0]) == 2
        epochs(model, settings, 1)

    task = opened(loop, train=part(0, 240), validation=part(240, 360), test=part(360, 400))
    assert follow(start(task), "F", task, PROFILE).steps[-1].n_epochs == 1


def test_loop_that_goes_on_when_its_minutes_are_over_is_refused() -> None:
    def late(model: Any, settings: Any, budget: Any) -> None:
        assert budget.minutes == 1e-6
        for _ in range(10**6):
            model.train()(X[:1])

    task = opened(late)
    with pytest.raises(UsageError, match=r"its budget of 1e-06 minutes \(.* by now\); look at the clock after each"):
        follow(start(task), "F(epochs=1000000,minutes=1e-6)", task, PROFILE)


def test_loop_that_ends_behind_the_batch_in_which_its_minutes_are_over_is_taken() -> None:
    def punctual(model: Any, settings: Any, budget: Any) -> None:
        begun = time.monotonic()
        for index in range(0, 240, 40):
            functional.cross_entropy(model(TRAIN[0][index : index + 40]), TRAIN[1][index : index + 40]).backward()
            if time.monotonic() - begun >= 60 * budget.minutes:
                return

    task = opened(punctual)
    assert follow(start(task), "F(minutes=1e-6)", task, PROFILE).steps[-1].n_epochs == 1


def test_memory_never_mixes_trainings() -> None:
    def made(n: int) -> Any:
        return lambda model, settings, budget: epochs(model, settings, n)

    keys = []
    for trainer in (made(1), made(2), made(2), plain, None):
        memory, task = Counted(), opened(trainer)
        follow(start(task), "F", task, PROFILE, memory=memory)
        keys.append((*memory.known, context(task)["data"]))
    assert keys[1] == keys[2] and len(set(keys)) == 4
