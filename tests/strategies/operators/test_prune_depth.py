"""P by time may drop residual branches: the best choice of all, for real, and on every way that a network goes."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import onnxruntime
import pytest
import torch
from conftest import follow, make_profile
from made_up_times import Phone
from torch import Tensor

from nacdeploy import task as tasks
from nacdeploy.base import records
from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.prune import allocation, layer_times
from nacdeploy.strategies.operators.prune.layer_times import Curve, LayerTimes, LayerUse
from nacdeploy.strategies.operators.prune.operator import Prune, PruneDecision
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.surgery.channels.channel_choice import PRODUCER, READER, Group, Member
from nacdeploy.surgery.depth import worth
from nacdeploy.surgery.depth.branches import Branch, branches
from nacdeploy.surgery.depth.dropping import Block
from nacdeploy.task import Task
from nacdeploy.testing import operators as laws

LITTLE = "P(time=0.12,depth=1,importance=fisher)"  # so little that blocks go


@pytest.fixture(scope="module")
def quick() -> Profile:
    tables = {"finetune": {"epochs": 1}, "exits": {"recipe": {"epochs": 1}}, "prune": {"multiple": 1}}
    return make_profile(width=4, decompose={"rank": "ratio", "multiple": 1}, **tables)


@pytest.fixture(scope="module")
def deep_task(quick: Profile) -> Task:
    return replace(tasks.make("resnet20", "digits", quick), clock=Phone())


@pytest.fixture(scope="module")
def deep(deep_task: Task, quick: Profile) -> CompressionState:
    """An untrained ResNet20: structure needs no training."""
    return initial_state(plain_network(deep_task, quick), deep_task)


@dataclass
class Hand:
    """A made-up network: a trunk of 3 channels, and branches of one group each, or of a layer alone."""

    groups: Sequence[Group]
    times: LayerTimes


def by_hand(worths: Sequence[float], bare: float) -> Hand:
    """Branches `a`, `b`, ... of two layers with a group between, and one that has no group of its own."""
    trunk = Group("trunk", (0, 1, 2), (0.5, 2.0, 3.0), 0, 1, (Member("trunk", PRODUCER, (0, 1, 2)),))
    groups, found, uses = [trunk], [], [LayerUse("trunk", 1, 3, {}, {"trunk": 1.0})]
    for name, value in zip("abcd", worths, strict=False):
        one, two = f"{name}1", f"{name}2"
        members = (Member(one, PRODUCER, (0, 1)), Member(two, READER, (0, 1)))
        groups.append(Group(one, (0, 1), (0.3 * value + 0.1, value), 0, 1, members))
        uses += [LayerUse(one, 3, 2, {"trunk": 1.0}, {one: 1.0}), LayerUse(two, 2, 3, {one: 1.0}, {"trunk": 1.0})]
        block = Block((one, two), two)
        found.append(Branch(block, two, frozenset(), frozenset(), (one, two), (one,), 1.1 * value))
    uses.append(LayerUse("bare", 3, 3, {"trunk": 1.0}, {"trunk": 1.0}))
    found.append(Branch(Block(("bare",), "bare"), "bare", frozenset(), frozenset(), ("bare",), (), bare))
    curves = {use.layer: _curve(use, 1.0 + 0.1 * place) for place, use in enumerate(uses)}
    return Hand(groups, LayerTimes(uses, curves, {g.root: g.n_channels for g in groups}, found))


def _curve(use: LayerUse, factor: float) -> Curve:
    sizes = tuple(range(1, use.n_in + 1)), tuple(range(1, use.n_out + 1))
    return Curve(sizes, tuple(tuple(factor * (0.5 + n * m) for m in sizes[1]) for n in sizes[0]))


def kept(hand: Hand, widths: Mapping[str, int]) -> float:
    """What stays of the importance: a branch that is dropped takes its own, not that of its channels."""
    lost = 0.0
    for group in hand.groups:
        inside = next((b for b in hand.times.branches if group.root in b.inner), None)
        if inside is None or widths[inside.key]:
            lost += allocation.loss(group, widths[group.root])
    return -lost - sum(b.importance for b in hand.times.branches if not widths[b.key])


def choices(hand: Hand) -> list[dict[str, int]]:
    """Every choice of widths and branches that can be."""
    found = []
    for stays in product((0, 1), repeat=len(hand.times.branches)):
        at = {b.key: stay for b, stay in zip(hand.times.branches, stays, strict=True)}
        gone = {root for b in hand.times.branches for root in b.inner if not at[b.key]}
        ranges = [(0,) if g.root in gone else range(1, g.n_channels + 1) for g in hand.groups]
        found += [{**dict(zip([g.root for g in hand.groups], w, strict=True)), **at} for w in product(*ranges)]
    return found


@pytest.mark.parametrize("worths", [(0.2, 3.0, 1.0), (2.0, 0.1, 0.1), (1.0, 1.0, 5.0)])
@pytest.mark.parametrize("bare", [0.05, 4.0])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.8])
def test_choice_keeps_the_most_importance_of_all(worths: tuple[float, ...], bare: float, share: float) -> None:
    hand = by_hand(worths, bare)
    most = share * hand.times.sum_ms(hand.times.now)
    best = max(kept(hand, each) for each in choices(hand) if hand.times.sum_ms(each) <= most)
    answer = allocation.allocated(hand.groups, hand.times, 1, most)
    assert answer is not None and answer in choices(hand)
    assert hand.times.sum_ms(answer) <= most
    assert kept(hand, answer) == pytest.approx(best, rel=1e-3)


def test_least_time_is_that_without_branches() -> None:
    hand = by_hand((1.0, 1.0), 1.0)
    assert allocation.allocated(hand.groups, hand.times, 1, 1.5) is not None  # the trunk alone, of one channel
    assert allocation.allocated(hand.groups, replace(hand.times, branches=()), 1, 1.5) is None


def test_sum_of_layers_is_that_of_the_network_without_branches(deep: CompressionState, deep_task: Task) -> None:
    assert deep_task.clock is not None
    found = channel_groups.groups(deep.network)
    every = worth.droppable(deep.network, found, "magnitude")
    times = layer_times.measured(deep.network, found, 1, deep_task.clock, every)
    assert len(every) == 7 and all(len(branch.inner) == 1 for branch in every)
    gone = sum(times.branch_ms(branch) for branch in every)
    widths = {**times.now, **allocation.without(every)}
    assert times.sum_ms(widths) == pytest.approx(times.sum_ms(times.now) - gone)
    assert 0 < gone < times.sum_ms(times.now)


@pytest.fixture(scope="module")
def dropped(deep: CompressionState, deep_task: Task, quick: Profile) -> CompressionState:
    return follow(deep, LITTLE, deep_task, quick)


def decision_of(state: CompressionState) -> PruneDecision:
    return next(step.decision for step in state.steps if isinstance(step.decision, PruneDecision))


def test_dropped_blocks_leave_the_network_and_its_cost(deep: CompressionState, dropped: CompressionState) -> None:
    decision = decision_of(dropped)
    assert decision.dropped and decision.timed is not None and decision.timed.measured_ms is not None
    assert decision.timed.measured_ms <= decision.timed.asked_ms
    for each in decision.dropped:
        assert each.ms > 0
        assert not any(each.block.holds(name) for name in dropped.network.layers)
        assert not any(each.block.holds(name.removeprefix("backbone.")) for name in dropped.network.state_dict())
    assert dropped.metrics.cost.macs < deep.metrics.cost.macs
    assert decision.taken == sum(decision.removed.values())


def test_explanation_names_blocks_and_their_times(dropped: CompressionState, quick: Profile) -> None:
    decision = decision_of(dropped)
    said = Prune.configure(quick, {"time": 0.12, "depth": True}).explain(decision)
    assert f"blocks dropped, up to: {decision.dropped[0].block.end} ({decision.dropped[0].ms:.3g} ms)" in said


@pytest.mark.parametrize(
    "law",
    [
        laws.check_perform_is_deterministic,
        laws.check_replay_gives_the_same_shapes,
        laws.check_decision_survives_json,
        laws.check_advance_leaves_its_input,
        laws.check_output_shape_is_kept,
    ],
)
def test_operator_keeps_law(law: object, deep: CompressionState, deep_task: Task, quick: Profile) -> None:
    assert law(*Chain.parse(LITTLE), deep, deep_task, quick) is None  # type: ignore[operator]


WORDS = ["", "F", "EQ", "D(ratio=0.5)", "SQ", "C", "P(time=0.8,depth=1)Q", "P(ratio=0.05)"]
BEFORE = [f"Q{LITTLE}", f"SE(n_exits=1){LITTLE.replace('0.12', '0.5')}"]


@pytest.mark.parametrize("word", WORDS)
def test_letters_behind_dropped_blocks_work(
    word: str, dropped: CompressionState, deep_task: Task, quick: Profile, tmp_path: Path
) -> None:
    check_kept_and_exported(follow(dropped, word, deep_task, quick), deep_task, quick, tmp_path)


@pytest.mark.parametrize("word", BEFORE)
def test_blocks_are_dropped_behind_other_letters(
    word: str, deep: CompressionState, deep_task: Task, quick: Profile, tmp_path: Path
) -> None:
    state = follow(deep, word, deep_task, quick)
    assert decision_of(state).dropped
    check_kept_and_exported(state, deep_task, quick, tmp_path)


def check_kept_and_exported(state: CompressionState, task: Task, profile: Profile, folder: Path) -> None:
    """What is loaded answers bit for bit as what was saved, and the exported file as the network."""
    checkpoint.write(folder, state, checkpoint.record_of(state, task, profile))
    loaded, _ = checkpoint.load(folder)
    x = torch.randn(4, *state.network.input_shape, generator=torch.Generator().manual_seed(0))
    expected = state.network.eval()(x).detach()
    assert torch.equal(loaded.network.eval()(x), expected)
    assert loaded.key == state.key
    assert difference(state.network, x, expected, profile.export.opset) < 0.05


def difference(network: Network, x: Tensor, expected: Tensor, opset: int) -> float:
    """The largest difference of the exported file's answers, by the size of the largest answer."""
    session = onnxruntime.InferenceSession(as_bytes(to_onnx(network, opset).model))
    answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    return float((answer - expected).abs().max() / expected.abs().max())


def as_bytes(model: object) -> bytes:
    return model if isinstance(model, bytes) else model.SerializeToString()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("importance", ["magnitude", "fisher", "answers", "taylor"])
def test_importance_tells_the_worth_of_branches(
    importance: str, deep: CompressionState, deep_task: Task, quick: Profile
) -> None:
    operator = Prune.configure(make_profile(width=4, prune={"importance": importance}), {"time": 0.5, "depth": True})
    groups, found = operator._weighed(channel_groups.groups(deep.network), deep.network, deep_task, 0)
    assert len(found) == 7
    for branch in found:
        inside = sum(sum(group.importance) for group in groups if group.root in branch.inner)
        assert branch.importance > 0
        assert importance in ("fisher", "answers") or branch.importance == pytest.approx(inside)


def test_gate_of_a_branch_is_the_gate_of_all_that_it_adds(deep: CompressionState, deep_task: Task) -> None:
    """A branch whose last norm is silent changes no answer, so that its gate has no slope."""
    network = copy_with_silent_branch(deep.network)
    operator = Prune.configure(make_profile(prune={"importance": "fisher"}), {"time": 0.5, "depth": True})
    _, found = operator._weighed(channel_groups.groups(network), network, deep_task, 0)
    worths = {branch.block.end: branch.importance for branch in found}
    assert worths.pop("stages.1.1.bn2") == 0.0
    assert min(worths.values()) > 0


def copy_with_silent_branch(network: Network) -> Network:
    silent = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in silent.backbone.get_submodule("stages.1.1.bn2").parameters():
            parameter.zero_()
    return silent


def test_block_with_an_exit_behind_it_stays(deep: CompressionState, deep_task: Task, quick: Profile) -> None:
    with_exits = follow(deep, "E", deep_task, quick)
    read = {head.node for head in with_exits.network.heads.values()}
    left = {b.block.end for b in branches(deep.network)} - {b.block.end for b in branches(with_exits.network)}
    assert left and all(any(end.rpartition(".")[0].replace(".", "_") in node for node in read) for end in left)


@pytest.mark.parametrize(("scope", "depth"), [("uniform", True), ("global", False)])
def test_without_depth_no_block_goes(scope: str, depth: bool, deep: CompressionState, deep_task: Task) -> None:
    operator = Prune.configure(make_profile(width=4, prune={"scope": scope, "depth": depth, "time": 0.4}), {})
    assert operator.decide(deep, deep_task).dropped == ()


@pytest.mark.parametrize(
    "parameters", [{"depth": True}, {"ratio": 0.5, "depth": 1.0}, {"time": 0.5, "depth": True, "scope": "uniform"}]
)
def test_depth_of_a_letter_without_a_time_is_refused(parameters: dict[str, float | str]) -> None:
    with pytest.raises(UsageError, match="give time or target_ms"):
        Prune.configure(make_profile(), parameters)


def test_letter_s_own_depth_stands_in_place_of_the_profile_s_scope() -> None:
    assert Prune.configure(make_profile(prune={"scope": "uniform"}), {"time": 0.5, "depth": True}).drops
    assert not Prune.configure(make_profile(prune={"scope": "uniform", "depth": True}), {"time": 0.5}).drops


def test_more_is_in_reach_with_depth(deep: CompressionState, deep_task: Task, quick: Profile) -> None:
    assert follow(deep, "P(time=0.11,depth=1)", deep_task, quick).metrics.score >= 0
    with pytest.raises(RefusedError, match="cutting channels reaches"):
        follow(deep, "P(time=0.11)", deep_task, quick)


def test_decision_of_an_older_file_dropped_nothing(dropped: CompressionState) -> None:
    data = records.to_data(decision_of(dropped))
    del data["dropped"]
    assert records.from_data(PruneDecision, data).dropped == ()


def test_file_that_drops_what_is_not_there_does_not_fit(deep: CompressionState, dropped: CompressionState) -> None:
    decision = decision_of(dropped)
    operator = Prune.configure(make_profile(), {})
    strange = replace(decision.dropped[0], block=Block(("nowhere",), "nowhere"))
    assert operator.misfit(deep.network, decision) is None
    assert "lacks" in str(operator.misfit(deep.network, replace(decision, dropped=(strange,))))
