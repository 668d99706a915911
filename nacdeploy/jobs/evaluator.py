"""Evaluating chains for a search: from the state of the chain's beginning, which is remembered, one letter further."""

from collections import OrderedDict
from dataclasses import dataclass, field

from nacdeploy import train
from nacdeploy.cost import layer_costs, nac_ratios
from nacdeploy.latency import Stopwatch
from nacdeploy.profile import Profile
from nacdeploy.strategies import operators
from nacdeploy.strategies.advance import advance
from nacdeploy.strategies.cache import DiskMemory
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import Figures
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

N_STATES_AT_HAND = 8


def figures_of(state: CompressionState, profile: Profile) -> Figures:
    """What objectives see of a state; under exits, expected figures."""
    now, base = state.metrics.cost, state.baseline.cost
    # The unit of NAC's charge per head is a block; here, as in the share of blocks run, a layer that multiplies.
    depth = len(layer_costs(state.network, state.network.example_input())) if state.network.exits else 1
    nac_bitops, nac_memory = nac_ratios(state.network, now, base, profile.exits.nac_rho, depth)
    return Figures(
        accuracy=state.metrics.accuracy,
        baseline_accuracy=state.baseline.accuracy,
        bitops_ratio=base.bitops / now.expected_bitops,
        macs_ratio=base.macs / now.expected_macs,
        bytes_ratio=base.memory_bits / now.memory_bits,
        nac_bitops_ratio=nac_bitops,
        nac_memory_ratio=nac_memory,
    )


@dataclass
class Evaluator:
    """Callable for the search engine: a chain whose beginning was evaluated before, to its figures."""

    baseline: CompressionState
    task: Task
    profile: Profile
    memory: DiskMemory
    report: train.Report = lambda *progress: None
    _at_hand: OrderedDict[str, CompressionState] = field(default_factory=OrderedDict)

    def __call__(self, chain: Chain) -> Evaluation:
        """Evaluate a chain.

        Raises:
            RefusedError: its last letter does not apply.
            DivergedError: its last training produced no number.
        """
        watch, n_before = Stopwatch(), self.memory.n_trainings
        state = self._advanced(chain) if chain.links else self.baseline
        return Evaluation(
            chain=str(chain),
            state_key=state.key,
            figures=figures_of(state, self.profile),
            refused=self._refusals(state),
            trained=self.memory.n_trainings > n_before,
            seconds=watch.seconds(),
        )

    def state(self, chain: Chain) -> CompressionState:
        """The state of a chain: at hand, from the memory, or run again from its beginning."""
        if not chain.links:
            return self.baseline
        name = str(chain)
        if name not in self._at_hand:
            recalled = self.memory.recall(name, self.baseline.metrics)
            self._keep(name, recalled or self._advanced(chain))
        self._at_hand.move_to_end(name)
        return self._at_hand[name]

    def _advanced(self, chain: Chain) -> CompressionState:
        *beginning, last = chain.links
        parent = self.state(Chain(tuple(beginning)))
        state = advance(parent, last, self.task, self.profile, self.memory, self.report)
        self.memory.remember(state)
        self._keep(str(chain), state)
        return state

    def _keep(self, name: str, state: CompressionState) -> None:
        self._at_hand[name] = state
        while len(self._at_hand) > N_STATES_AT_HAND:
            self._at_hand.popitem(last=False)

    def _refusals(self, state: CompressionState) -> dict[str, str]:
        links = parsed(self.profile.search.alphabet).links
        reasons = {str(link): operators.make(link, self.profile).refusal(state) for link in links}
        return {symbol: reason for symbol, reason in reasons.items() if reason is not None}
