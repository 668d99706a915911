"""Evaluating chains for a search: one letter more than a chain whose state is remembered."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from nacdeploy.base.errors import DivergedError, RefusedError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.progress import nobody
from nacdeploy.network.cost import layer_costs, nac_ratios
from nacdeploy.network.network import content
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.operators.add_exits.settings import ExitTable
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.search.journal import Evaluation, failed
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.state import CompressionState, Metrics
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.advance import Memory, Meter, Trained, advance, measured
from nacdeploy.task import Task, training
from nacdeploy.task.loop.unfinished import Unfinished
from nacdeploy.trials.speed import Speed

# States kept in working memory: two at least, and more within this number and these bytes of values.
N_AT_HAND, AT_HAND_BYTES = 24, 96 * 2**20


def figures_of(state: CompressionState, profile: Profile, speed: Speed | None = None) -> Figures:
    """Return the figures of a state for objectives, with its speed if known; under exits, expected figures."""
    now, base = state.metrics.cost, state.baseline.cost
    # The unit of NAC's charge per head is a block; here, as in the share of blocks run, a layer that multiplies.
    depth = len(layer_costs(state.network, state.network.example_input())) if state.network.exits else 1
    nac_bitops, nac_memory = nac_ratios(state.network, now, base, profile.of(ExitTable).nac_rho, depth)
    return Figures(
        score=state.metrics.score,
        baseline_score=state.baseline.score,
        bitops_ratio=base.bitops / now.expected_bitops,
        macs_ratio=base.macs / now.expected_macs,
        bytes_ratio=base.memory_bits / now.memory_bits,
        nac_bitops_ratio=nac_bitops,
        nac_memory_ratio=nac_memory,
        speed_ratio=speed.ratio if speed else None,
        speed_low=speed.low if speed else None,
        speed_high=speed.high if speed else None,
        n_images=state.metrics.n_images,
        half_width=state.metrics.half_width,
        chance_score=state.metrics.chance,
        metric=state.metrics.metric,
    )


@dataclass
class Evaluator:
    """A function from a chain, whose prefix was evaluated before, to its row.

    `speed` times a state, or estimates how fast it runs; `meter` counts as many validation images as a decision needs.
    An F without epochs of its own trains `finetune_epochs`, and the state's chain names them.
    """

    baseline: CompressionState
    task: Task
    profile: Profile
    memory: DiskMemory
    report: training.Report = nobody
    speed: Callable[[CompressionState], Speed] | None = None
    meter: Meter | None = None
    finetune_epochs: int | None = None
    _at_hand: OrderedDict[str, CompressionState] = field(default_factory=OrderedDict)

    def __call__(self, chain: Chain) -> Evaluation:
        """Evaluate a chain; its row is a failed one where its last letter does not apply or its training diverges."""
        watch, noted = Stopwatch(), _Noted(self.memory)
        try:
            state = self._advanced(self._run_as(chain), noted) if chain.links else self.baseline
            speed = self.speed(state) if self.speed else None
        except (RefusedError, DivergedError) as error:
            return failed(chain, str(error), watch.seconds(), noted.training_key)
        return Evaluation(
            chain=str(chain),
            state_key=state.key,
            figures=figures_of(state, self.profile, speed),
            refused=self._refusals(state),
            seconds=watch.seconds(),
            training=noted.training_key,
        )

    def state(self, chain: Chain) -> CompressionState:
        """The state of a chain: at hand, from the memory, or run again from its beginning."""
        if not chain.links:
            return self.baseline
        chain = self._run_as(chain)
        name = str(chain)
        if name not in self._at_hand:
            recalled = self.memory.recall(name, self.baseline.metrics)
            self._keep(name, recalled or self._advanced(chain, self.memory))
        self._at_hand.move_to_end(name)
        return self._at_hand[name]

    def in_full(self, chain: Chain) -> CompressionState:
        """The state of a chain with all validation images counted."""
        state = self.state(chain)
        if not state.metrics.half_width:
            return state
        return replace(state, metrics=measured(state.network, self.task, self.memory))

    def _run_as(self, chain: Chain) -> Chain:
        """The chain with the epochs of every F that has none."""
        if self.finetune_epochs is None:
            return chain
        return Chain(tuple(_for_epochs(link, self.finetune_epochs) for link in chain))

    def _advanced(self, chain: Chain, memory: Memory) -> CompressionState:
        *beginning, last = chain.links
        parent = self.state(Chain(tuple(beginning)))
        with _on_threads(self.profile.search.threads):
            state = advance(parent, last, self.task, self.profile, memory, self.report, self.meter)
        self.memory.remember(state)
        self._keep(str(chain), state)
        return state

    def _keep(self, name: str, state: CompressionState) -> None:
        self._at_hand[name] = state
        while len(self._at_hand) > 2 and not self._has_room():
            self._at_hand.popitem(last=False)

    def _has_room(self) -> bool:
        n_bytes = sum(value.nbytes for state in self._at_hand.values() for value in content(state.network).values())
        return len(self._at_hand) <= N_AT_HAND and n_bytes <= AT_HAND_BYTES

    def _refusals(self, state: CompressionState) -> dict[str, str]:
        links = parsed(self.profile.search.alphabet).links
        reasons = {str(link): letters.why_masked(letters.make(link, self.profile), state) for link in links}
        return {symbol: reason for symbol, reason in reasons.items() if reason is not None}


def _for_epochs(link: Link, n_epochs: int) -> Link:
    """The link, with a number of epochs if it is an F without one."""
    if link.letter != "F" or "epochs" in dict(link.parameters):
        return link
    return Link("F", (("epochs", n_epochs), *link.parameters))


@dataclass
class _Noted:
    """A memory that notes each training it is asked for: the key counts it once, run or remembered."""

    memory: DiskMemory
    training_key: str | None = None

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        self.training_key = key
        return self.memory.training(key, make)

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        return self.memory.metrics(key, make)

    def unfinished(self, key: str) -> Unfinished:
        return self.memory.unfinished(key)


@contextmanager
def _on_threads(n_threads: int) -> Iterator[None]:
    """Set the same number of threads in every worker: another number rounds sums in another order."""
    former = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(former)
