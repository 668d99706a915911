"""Training by a loop of the user's own (`Task(trainer=)`): what it is given, and what must have stayed afterwards.

The loop gets a copy, of which only values come back: hooks, a forgotten `eval()`, frozen parameters and everything else
that code can leave at a module go with the copy.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.base.errors import DivergedError, UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.brought.reading import seeded
from nacdeploy.brought.sealed import sealed
from nacdeploy.brought.sources import tried
from nacdeploy.brought.training import Budget, Trainer, TrainingSettings
from nacdeploy.network.network import Network, content
from nacdeploy.network.served import served

_GRACE = 1.1  # of the minutes: what lies behind the last batch takes time too
WHERE, DURING = "Task(trainer=)", "networks are trained"
Moved = Callable[[nn.Module], AbstractContextManager[torch.device]]


def fit(network: Network, trainer: Trainer, budget: Budget, settings: TrainingSettings, moved: Moved) -> int:
    """Train a network in place by a task's own loop; return the epochs run.

    The block of `moved(module)` has the module on the device where it trains; the teacher of the settings follows it.

    Raises:
        UsageError: the loop fails, or changes what it must leave, runs beyond its budget or reads the test data; the
            network keeps its values.
        DivergedError: it leaves values that are no finite numbers; the network keeps its values.
    """
    if budget.epochs == 0:
        return 0
    trained = copy.deepcopy(network)
    shown = served(trained).train()
    run = _Run(budget)
    before, modules = _layout(trained), dict(shown.named_modules())
    with _alone(settings.seed), moved(shown) as device, run.counted(shown), sealed(trainer.task, DURING, True) as reads:
        if settings.teacher is not None:
            settings.teacher.to(device)
        answer = tried(lambda: _called(trainer, shown, settings, run.budget), WHERE)
    if reads:
        raise UsageError(f"{WHERE}: {reads[0]}")
    tried(run.check, WHERE)
    _check_module(answer, shown, modules, before, trained)
    _check_fixed(network, trained)
    values = _values(trained, content(network))
    _check_trained(values, content(network), run)
    network.load_state_dict(values)
    return run.n_epochs(trainer.n_samples)


def frozen(teacher: Network) -> nn.Module:
    """Return a copy of a teacher as a loop calls it, in evaluation mode; no gradient reaches it."""
    return served(copy.deepcopy(teacher)).eval().requires_grad_(False)


@dataclass
class _Run:
    """A running training: its budget, the samples that its module has seen in training mode, and its time: since the
    start, and the longest between two looks at the clock, which are as often as the loop itself can look."""

    budget: Budget
    n_seen: int = 0
    largest: int = field(default=0)
    watch: Stopwatch = field(default_factory=Stopwatch)
    seconds: float = 0.0
    longest: float = 0.0

    @contextmanager
    def counted(self, shown: nn.Module) -> Iterator[None]:
        """Count the samples of a module's training within the block."""
        handle = shown.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _count(self, module: nn.Module, given: Any, named: Any) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        n = next((len(each) for each in (*given, *named.values()) if isinstance(each, Tensor) and each.dim()), 0)
        self.n_seen, self.largest = self.n_seen + n, max(self.largest, n)
        self.check()

    def check(self) -> None:
        """Refuse more samples than the budget has, or more minutes; a batch more is a look at the first one, or the one
        in which time is over.

        Raises:
            UsageError: there were more.
        """
        self._check_time()
        most = self.budget.samples
        if most is not None and self.n_seen > most + self.largest:
            raise UsageError(
                f"it trains beyond its budget, {self.budget.epochs} x {most // self.budget.epochs} samples; stop after "
                "budget.epochs"
            )

    def _check_time(self) -> None:
        now, minutes = self.watch.seconds(), self.budget.minutes
        self.longest, self.seconds = max(self.longest, now - self.seconds), now
        if minutes is not None and now > 60 * minutes * _GRACE + 2 * self.longest:
            raise UsageError(
                f"it trains beyond its budget of {minutes:g} minutes ({now / 60:.2g} by now); look at the clock after "
                "each batch, and stop after budget.minutes"
            )

    def n_epochs(self, n_samples: int | None) -> int:
        """Return the epochs that were run, as far as they can be counted."""
        if not n_samples or not self.n_seen:
            return self.budget.epochs
        return min(self.budget.epochs, max(1, round(self.n_seen / n_samples)))


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Run a user's loop seeded and with gradients; what it sets for all of torch goes again."""
    kind = torch.get_default_dtype()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]), seeded(seed):
        try:
            yield
        finally:
            torch.set_default_dtype(kind)


def _called(trainer: Trainer, shown: nn.Module, settings: TrainingSettings, budget: Budget) -> Any:
    try:
        return trainer.function(shown, settings, budget)
    except SystemExit as error:
        raise UsageError(f"it ends the process (exit {error.code}); let it return") from error


def _values(trained: Network, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of a trained network on the devices where they were."""
    return {name: value.detach().to(start[name].device) for name, value in content(trained).items()}


def _layout(network: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Return of all values by name the shape, the type, and the name of the value that is the same one ("" if none)."""
    first: dict[int, str] = {}
    found = {}
    for name, value in network.state_dict(keep_vars=True).items():
        same = first.setdefault(id(value), name)
        found[name] = (tuple(value.shape), value.dtype, "" if same == name else same)
    return found


def _check_module(
    answer: Any, shown: nn.Module, modules: dict[str, nn.Module], before: dict[str, Any], trained: Network
) -> None:
    """Check that the module that was given is the one that was trained, with the same structure."""
    if isinstance(answer, nn.Module) and answer is not shown:
        raise UsageError(f"{WHERE} returns another module; train the one that it is given, in place")
    now = dict(shown.named_modules())
    other = next((name for name in (modules | now) if modules.get(name) is not now.get(name)), None)
    if other is not None:
        raise UsageError(f"{WHERE} replaces the module '{other}'; train its parameters in place, structure as it is")
    after = _layout(trained)
    changed = next((name for name in (before | after) if before.get(name) != after.get(name)), None)
    if changed is not None:
        raise UsageError(
            f"{WHERE} changes the structure: '{changed}' was {_shown(before.get(changed))}, is "
            f"{_shown(after.get(changed))}; parameters keep names, shapes and types"
        )


def _shown(found: tuple[Any, ...] | None) -> str:
    if found is None:
        return "not there"
    shape, kind, same = found
    return f"{shape} {str(kind).removeprefix('torch.')}" + (f" and the same as '{same}'" if same else "")


def _check_fixed(network: Network, trained: Network) -> None:
    """Check that masks, labels, scales and rules of the compression are as they were: training moves parameters."""
    learned = {name for name, _ in network.named_parameters()}
    now = content(trained)
    for name, value in content(network).items():
        if name in learned or name.startswith("backbone."):  # a batch norm's averages are learned
            continue
        if not torch.equal(value, now[name].to(value.device)):
            raise UsageError(f"{WHERE} changes '{name}' (masks, scales, shared values); train parameters alone")
    if (network.plan, network.rule, network.sparsity) != (trained.plan, trained.rule, trained.sparsity):
        raise UsageError(f"{WHERE} changes how the network is quantized or pruned; train parameters alone")


def _check_trained(values: dict[str, Tensor], start: dict[str, Tensor], run: _Run) -> None:
    """Check that values are finite, and that they are those of a training of this module."""
    for name, value in values.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DivergedError(
                f"{WHERE} leaves values in '{name}' that are not finite numbers; a lower learning_rate would work"
            )
    if run.n_seen == 0 and all(torch.equal(value, start[name]) for name, value in values.items()):
        raise UsageError(f"{WHERE} trains nothing: the module that it is given never runs in training mode; train it")
