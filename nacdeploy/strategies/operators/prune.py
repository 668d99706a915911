"""P: remove channels for real, whole dependency groups at a time, least important first.

The n-th P brings the network-wide number of removed channels to n x ratio of the baseline's, counting a channel shared
by coupled layers once. What is not a whole unit (`multiple` channels of one group) is carried to the next P.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from nacdeploy.errors import NacdeployError
from nacdeploy.layers import channel_pruning
from nacdeploy.layers.channel_pruning import Cut, Group
from nacdeploy.layers.network import Network
from nacdeploy.profile import Profile, PruneTable
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, decisions, with_parameters
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

ROUNDING = 1e-9


@dataclass(frozen=True)
class PruneDecision:
    """Channels asked for (a share may be left from before), taken in whole units, and carried to the next P."""

    asked: float
    taken: int
    carried: float
    baseline_widths: dict[str, int]
    removed: dict[str, int]
    cut: Cut


@dataclass(frozen=True)
class Prune:
    letter: ClassVar[str] = "P"
    name: ClassVar[str] = "Prune"
    version: ClassVar[int] = 2
    decision_type: ClassVar[type] = PruneDecision
    table: PruneTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        table = with_parameters(cls.letter, profile.prune, parameters)
        if table.multiple == "target":
            table = table.model_copy(update={"multiple": target_multiple(profile.target)})
        return cls(table)

    @property
    def multiple(self) -> int:
        """The channels of one unit, as a number."""
        return int(self.table.multiple)

    def refusal(self, state: CompressionState) -> str | None:
        try:
            found = channel_pruning.groups(state.network)
        except NacdeployError as error:
            return str(error)
        if channel_pruning.has_unit_left(found, self.multiple):
            return None
        return f"no layer has a unit of {self.multiple} channels left to give"

    def decide(self, state: CompressionState, task: Task) -> PruneDecision:
        found = channel_pruning.groups(state.network)
        earlier = decisions(state, PruneDecision)
        widths = earlier[0].baseline_widths if earlier else _widths(found)
        asked = self.table.ratio * sum(widths.values()) + (earlier[-1].carried if earlier else 0.0)
        whole = math.floor(asked + ROUNDING)
        removed = channel_pruning.choose(found, widths, whole, self.multiple, self.table.scope)
        taken = sum(map(len, removed.values()))
        cut = channel_pruning.plan_cut(state.network, removed) if removed else Cut()
        by_root = {root: len(channels) for root, channels in removed.items()}
        return PruneDecision(asked, taken, asked - taken, widths, by_root, cut)

    def perform(self, network: Network, decision: PruneDecision) -> Network:
        if not decision.taken:
            return network
        cut = copy.deepcopy(network)
        channel_pruning.apply_cut(cut, decision.cut)
        return cut

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: PruneDecision) -> str:
        text = f"{decision.taken} of {sum(decision.baseline_widths.values())} baseline channels removed"
        if decision.taken == 0:
            return f"{text}: the share of {decision.asked:g} is less than one unit and carried to the next P"
        where = ", ".join(f"{root} {n}" for root, n in decision.removed.items())
        return f"{text}, {self._rounding(decision)}: {where}"

    def _rounding(self, decision: PruneDecision) -> str:
        """What rounding to whole units took and left for the next P."""
        took = f"took {decision.taken} of {decision.asked:g} channels asked, {decision.carried:g} carried"
        return f"rounding to units of {self.multiple} {took}"


def target_multiple(target: str, is_quantized: bool = True) -> int:
    """The unit that a target's kernels work in: INT8 tensor cores want 32 channels, FP16 ones 8, CPU kernels blocks of
    8."""
    return 32 if is_quantized and "trt" in target else 8


def _widths(found: tuple[Group, ...]) -> dict[str, int]:
    return {group.root: group.n_channels for group in found}
