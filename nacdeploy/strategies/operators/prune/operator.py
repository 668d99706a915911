"""P: remove channels for real, whole dependency groups at a time, least important first.

The n-th P brings the network-wide number of removed channels to n x ratio of the baseline's, counting a channel shared
by coupled layers once; with a table of ratios, each named layer's own number. A remainder below a whole unit
(`multiple` channels of one group) is carried to the next P. With `time` or `target_ms`, a P leaves a share of the
measured time of the network that it is given, or a time (`by_time`), and may drop residual branches for it (`depth`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Self

from nacdeploy.base.errors import NacdeployError, RefusedError, UsageError
from nacdeploy.base.precision import Precision
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, decisions, with_parameters
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.by_time import Budget, Dropped, Timed
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_images
from nacdeploy.strategies.state import CompressionState
from nacdeploy.surgery.channels import (
    channel_choice,
    channel_groups,
    channel_importance,
    channel_pruning,
    reconstruction,
)
from nacdeploy.surgery.channels.channel_choice import ROUNDING, Group
from nacdeploy.surgery.channels.channel_importance import Evidence
from nacdeploy.surgery.channels.channel_pruning import Cut
from nacdeploy.surgery.depth import dropping, worth
from nacdeploy.surgery.depth.branches import Branch
from nacdeploy.task import Task, training
from nacdeploy.task import evaluate as evaluation

_N_CAUSES = 3
_JUDGES = 4  # images that fit, for each that judges a fit
_MEASURES = {"ratio", "time", "target_ms"}
_RUN_WIDE = ("latency_table",)  # the clock of a session reads it


@dataclass(frozen=True)
class PruneDecision:
    """The channels asked for (a remainder may be left from before), taken in whole units, and carried to the next P.

    The numbers are in all, and for each layer of a table of ratios; `left` says which layers cannot be cut, and why.
    `timed` are the times of a P by time, `dropped` the residual branches that it dropped, with the channels in `taken`.
    """

    asked: float
    taken: int
    carried: float
    baseline_widths: dict[str, int]
    removed: dict[str, int]
    cut: Cut
    carried_by: dict[str, float] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    timed: Timed | None = None
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class Prune:
    letter: ClassVar[str] = "P"
    name: ClassVar[str] = "Prune"
    version: ClassVar[int] = 3
    decision_type: ClassVar[type] = PruneDecision
    table: PruneTable
    seed: int = 0
    rule: Rule | None = None

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        own = profile.of(PruneTable)
        if _MEASURES & parameters.keys():  # a letter's own measure stands in place of the profile's
            own = own.model_copy(update={"time": None, "target_ms": None})
        if parameters.get("depth"):  # as its own depth does in place of a scope that leaves every block
            own = own.model_copy(update={"scope": "global"})
        if len(both := sorted(_MEASURES & parameters.keys())) > 1 and "ratio" in both:
            raise UsageError(f"P({both[0]}, {both[1]}): a share of the channels or a time is removed: give one of them")
        table = with_parameters(cls.letter, own, parameters, _RUN_WIDE)
        if table.multiple == "target":
            table = table.model_copy(update={"multiple": profile.target.multiple()})
        if parameters.get("depth") and not (table.is_by_time and table.may_drop):
            raise UsageError("P(depth=1) drops blocks for time: give time or target_ms with it, and no scope=uniform")
        return cls(table, profile.seed, rule_to_come(profile) if table.runs_as == "int8" else None)

    @property
    def is_by_time(self) -> bool:
        """Whether it leaves a time, in place of removing a share."""
        return self.table.is_by_time

    @property
    def drops(self) -> bool:
        """Whether it may drop residual branches."""
        return self.is_by_time and self.table.may_drop

    @property
    def multiple(self) -> int:
        """The channels of one unit, as a number."""
        return int(self.table.multiple)

    def refusal(self, state: CompressionState) -> str | None:
        try:
            found = channel_groups.outlines(state.network)
        except NacdeployError as error:
            return str(error)
        if (done := self._within(state)) is not None:
            return done
        named, is_table = self._named(found, state.network), bool(self.table.ratios) and not self.is_by_time
        if self.drops and worth.droppable(state.network, found, self.table.importance):
            return None
        if not channel_choice.has_unit_left(named, self.multiple):
            start = f"no {'named ' if is_table else ''}layer has a unit of {self.multiple} channels left to give"
            return "; ".join((start, *self._why(named, state.network)[:_N_CAUSES]))
        ranked = channel_importance.covered(named, self.table.importance, state.network)
        if len(ranked) == len(named) or (not is_table and channel_choice.has_unit_left(ranked, self.multiple)):
            return None
        return channel_importance.why_not(named, self.table.importance, state.network)

    def decide(self, state: CompressionState, task: Task) -> PruneDecision:
        if self.is_by_time:
            return self._by_time(state, task)
        found = channel_groups.groups(state.network)
        earlier = decisions(state, PruneDecision)
        widths = earlier[0].baseline_widths if earlier else _widths(found)
        ranked = self._ranked(self._named(found, state.network), state.network, task, len(earlier))
        each: dict[str, float] = {}
        if self.table.ratios:
            each = self._asked_of_each(found, state.network, widths, earlier)
            asked = sum(each.values())
            removed = channel_choice.choose_each(ranked, each, self.multiple)
        else:
            asked = self.table.ratio * sum(widths.values()) + (earlier[-1].carried if earlier else 0.0)
            whole = math.floor(asked + ROUNDING)
            removed = channel_choice.choose(ranked, widths, whole, self.multiple, self.table.scope)
        units = {group.root: group.unit(self.multiple) for group in ranked}
        removed = channel_pruning.spared(state.network, removed, units)
        by_root = {root: len(channels) for root, channels in removed.items()}
        cut = channel_pruning.plan_cut(state.network, removed) if removed else Cut()
        carried_by = {root: share - by_root.get(root, 0) for root, share in each.items()}
        taken = sum(by_root.values())
        left = channel_choice.causes(channel_groups.left_out(state.network))[:_N_CAUSES]
        return PruneDecision(asked, taken, asked - taken, widths, by_root, cut, carried_by, left)

    def _by_time(self, state: CompressionState, task: Task) -> PruneDecision:
        """Return the cut that leaves a time.

        Raises:
            RefusedError: the time is out of reach, or nothing here tells times.
        """
        if task.clock is None:
            raise RefusedError("P by time needs a clock (task.clock), which a session brings")
        earlier, network = decisions(state, PruneDecision), state.network
        found = channel_groups.groups(network)
        ranked, gone = self._weighed(found, network, task, len(earlier))
        budget = Budget(self.table.time, self.table.target_ms)
        answer = by_time.allocate(network, ranked, self.multiple, self.table.scope, budget, self.rule, task.clock, gone)
        removed, widths = answer.removed, earlier[0].baseline_widths if earlier else _widths(found)
        by_root = {root: len(channels) for root, channels in removed.items()} | answer.fallen
        cut = channel_pruning.plan_cut(network, removed) if removed else Cut()
        left = channel_choice.causes(channel_groups.left_out(network))[:_N_CAUSES]
        n = sum(by_root.values())
        return PruneDecision(n, n, 0.0, widths, by_root, cut, {}, left, answer.timed, answer.dropped)

    def _weighed(
        self, found: Sequence[Group], network: Network, task: Task, n_earlier: int
    ) -> tuple[Sequence[Group], Sequence[Branch]]:
        """Return the groups in the order of the profile's importance, and the branches that may go with theirs."""
        ranked = self._ranked(found, network, task, n_earlier)
        every = worth.droppable(network, ranked, self.table.importance) if self.drops else ()
        if not every or self.table.importance not in channel_importance.SLOPES:
            return ranked, every
        with self._evidence(network, task, n_earlier) as known:
            return ranked, worth.weighed(every, self.table.importance, known)

    def _within(self, state: CompressionState) -> str | None:
        """Return why a P that leaves a time has nothing to do: an earlier one left it, or less."""
        times = [each.timed for each in decisions(state, PruneDecision) if each.timed is not None]
        if self.table.target_ms is None or not times or times[-1].asked_ms > self.table.target_ms:
            return None
        left_ms = times[-1].measured_ms or times[-1].expected_ms
        return f"an earlier P left {left_ms:.4g} ms, and {self.table.target_ms:.4g} ms are allowed"

    def _why(self, named: Sequence[Group], network: Network) -> tuple[str, ...]:
        """Return why no layer gives channels."""
        small = {g.root: f"{g.n_channels} channels are one unit of {g.unit(self.multiple)} or less" for g in named}
        return channel_choice.causes({**channel_groups.left_out(network), **small})

    def _named(self, found: Sequence[Group], network: Network) -> Sequence[Group]:
        """Return the groups that may give channels: all, or those in a table of ratios."""
        if not self.table.ratios or self.is_by_time:
            return found
        shares = self._shares(found, network)
        return [group for group in found if shares.get(group.root)]

    def _shares(self, found: Sequence[Group], network: Network) -> dict[str, float]:
        outputs = {name: len(layer.weight) for name, layer in network.layers.items()}  # type: ignore[arg-type]
        return channel_choice.ratio_by_root(found, self.table.ratios, outputs)

    def _asked_of_each(
        self, found: Sequence[Group], network: Network, widths: Mapping[str, int], earlier: Sequence[PruneDecision]
    ) -> dict[str, float]:
        """Return the channels asked of each named group, with the remainder of its earlier P."""
        carried = earlier[-1].carried_by if earlier else {}
        n_now = _widths(found)
        shares = self._shares(found, network)
        return {root: share * widths.get(root, n_now[root]) + carried.get(root, 0.0) for root, share in shares.items()}

    def _ranked(self, found: Sequence[Group], network: Network, task: Task, n_earlier: int) -> Sequence[Group]:
        """Return the groups in the order of the profile's importance."""
        name = self.table.importance
        if name == channel_importance.MAGNITUDE:
            return found
        with self._evidence(network, task, n_earlier) as known:
            return channel_importance.ranked(channel_importance.covered(found, name, network), name, known)

    @contextmanager
    def _evidence(self, network: Network, task: Task, n_earlier: int) -> Iterator[Evidence]:
        """Collect the evidence for an importance, on the device that trains."""
        images = calibration_images(task.data, self.table.n_calibration, labelled=True)
        seed = training.seed_of(self.seed, str(n_earlier), "random channels")
        with evaluation.accelerated(network) as device:
            x, labels = task.data.normalize(images.whole()).to(device), images.labels.to(device)
            yield channel_importance.evidence(network, x, labels, task.metric.loss, seed)

    def perform(self, network: Network, decision: PruneDecision) -> Network:
        if not decision.taken and not decision.dropped:
            return network
        return by_time.smaller(network, decision.cut, [each.block for each in decision.dropped])

    def misfit(self, network: Network, decision: PruneDecision) -> str | None:
        """See `Fits`."""
        blocks = [each.block for each in decision.dropped]
        return channel_pruning.misfit(network, decision.cut) or dropping.misfit(network, blocks)

    def refit(self, network: Network, former: Network, decision: PruneDecision, task: Task) -> None:
        """Fit by least squares on training images, judged on validation images, if `prune.reconstruct` asks for it."""
        if self.table.reconstruct and decision.taken:
            data, n = task.data, self.table.n_calibration
            both = calibration_images(data, n), data.validation.drawn(max(1, n // _JUDGES), self.seed)
            with evaluation.accelerated(former), evaluation.accelerated(network) as device:
                images, judges = (data.normalize(each.whole()).to(device) for each in both)
                reconstruction.refit(network, former, decision.cut, images, judges)

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: PruneDecision) -> str:
        text = f"{decision.taken} of {sum(decision.baseline_widths.values())} baseline channels removed"
        where = ", ".join(f"{root} {n}" for root, n in decision.removed.items())
        left = f"; left whole: {'; '.join(decision.left)}" if decision.left else ""
        if decision.timed is not None:
            return f"{text}, {_times(decision.timed)}: {where or 'nothing'}{_blocks(decision.dropped)}{left}"
        if decision.taken == 0:
            return f"{text}: the share of {decision.asked:g} is less than one unit and carried to the next P"
        return f"{text}, {self._rounding(decision)}: {where}{left}"

    def _rounding(self, decision: PruneDecision) -> str:
        """Describe the channels that rounding to whole units took and left for the next P."""
        took = f"took {decision.taken} of {decision.asked:g} channels asked, {decision.carried:g} carried"
        return f"rounding to units of {self.multiple} {took}"


def _widths(found: Sequence[Group]) -> dict[str, int]:
    return {group.root: group.n_channels for group in found}


def _blocks(dropped: Sequence[Dropped]) -> str:
    """Describe the branches that are gone, by the module that computed the output of each."""
    each = ", ".join(f"{one.block.end} ({one.ms:.3g} ms)" for one in dropped)
    return f"; blocks dropped, up to: {each}" if dropped else ""


def rule_to_come(profile: Profile) -> Rule:
    """Return the rule of the Q that comes later, by the profile's table."""
    table = profile.of(QuantizeTable)
    rung = Precision.parse(table.ladder[0])
    return Rule(rung, table.exclude, table.min_channels, table.layer_bits, table.weights)


def _times(timed: Timed) -> str:
    """Describe what is left of a time, and how far the table was off."""
    name = "INT8" if timed.precision == by_time.INT8 else "FP32"
    left_ms = timed.measured_ms or timed.expected_ms
    how = (
        f"measured, the table expected {timed.expected_ms:.4g}"
        if timed.measured_ms is not None
        else "by a carried table"
    )
    return (
        f"{left_ms:.4g} of {timed.before_ms:.4g} ms left in {name} ({how}; at most {timed.asked_ms:.4g} asked; "
        f"{timed.least_ms:.4g} is the least)"
    )
