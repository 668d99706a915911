"""E: attach the next early exits; their heads train alone, their gate is calibrated on validation data."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from nacdeploy import metrics
from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.network.attachments.early_exit import CELLS, ExitHead, Kind, breadth_first
from nacdeploy.network.attachments.exit_places import Place, exit_places, named_place
from nacdeploy.network.captured.axes import is_signal
from nacdeploy.network.network import Network, Simulation
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.add_exits import by_time, head_size
from nacdeploy.strategies.operators.add_exits.settings import ExitTable
from nacdeploy.strategies.operators.base import Recovery, with_parameters
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task.distillation import Distillation

RUN_WIDE = ("threshold", "max_drop", "nac_rho", "recipe", "distill", "distill_temperature")


@dataclass(frozen=True)
class NewExit:
    """An exit at a place: the graph node it reads and that node's shape (without the batch)."""

    place: str
    node: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ExitsDecision:
    """The new exits, and the form of their heads. The last of an odd number stands alone."""

    exits: tuple[NewExit, ...]
    n_classes: int
    grid: int
    head: Kind = "linear"


@dataclass(frozen=True)
class AddExits:
    letter: ClassVar[str] = "E"
    name: ClassVar[str] = "AddExits"
    version: ClassVar[int] = 1
    decision_type: ClassVar[type] = ExitsDecision
    keeps: ClassVar[Literal["end"]] = "end"
    table: ExitTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        return cls(with_parameters(cls.letter, profile.of(ExitTable), parameters, RUN_WIDE))

    def refusal(self, state: CompressionState) -> str | None:
        if why := metrics.named(state.metrics.metric).no_exits:
            return why
        if state.network.graph is None:
            return "this network's graph cannot be captured, so that no exit place is known"
        places = self._places(state.network)
        if not places:
            return "the network has no block end with a single live tensor"
        return None if self._free(state.network) else f"all {len(places)} exit places are taken"

    def decide(self, state: CompressionState, task: Task) -> ExitsDecision:
        chosen = self._timed(self._free(state.network), state.network, task)[: self.table.n_exits]
        shapes = _shapes(state.network, {place.node for place in chosen})
        exits = tuple(NewExit(place.name, place.node, shapes[place.node]) for place in chosen)
        grid, head = self.table.grid, self.table.head
        if head == "bag":
            grid = CELLS
        elif grid == "auto":
            grid = head_size.grid_for(state.network, [new.node for new in exits], task)
        return ExitsDecision(exits, task.data.n_outputs, grid, head)

    def perform(self, network: Network, decision: ExitsDecision) -> Network:
        extended = copy.deepcopy(network)
        nodes = {node.name: node for node in network.graph.nodes} if network.graph is not None else {}
        for new in decision.exits:
            is_tokens = len(new.shape) == 2 and not is_signal(nodes[new.node], network.backbone)
            form = decision.n_classes, decision.grid, is_tokens, decision.head
            head = ExitHead(new.place, new.node, (1, *new.shape), *form)
            extended.exits[new.node] = head.train(extended.training)
        return extended

    def misfit(self, network: Network, decision: ExitsDecision) -> str | None:
        """See `Fits`."""
        nodes = {each.name for each in network.graph.nodes} if network.graph is not None else set()
        named, taken = [new.node for new in decision.exits], {head.node for head in network.heads.values()}
        strange = next((node for node in named if node not in nodes), None)
        if strange is not None:
            return f"it puts an exit at '{strange[:80]}', which the model lacks"
        if len({*named, *taken}) < len(named) + len(taken):
            return "it puts two exits at one place"
        shapes = _shapes(network, set(named))
        if any(shapes[new.node] != new.shape for new in decision.exits) or decision.grid < 1:
            return "its exits read tensors of other shapes than the model computes"
        n_outputs = network(network.example_input()).shape[1] if decision.exits else decision.n_classes
        return None if decision.n_classes == n_outputs else f"its exits tell {decision.n_classes} classes apart"

    def recovery(self, profile: Profile) -> Recovery | None:
        return Recovery(heads=self.table.recipe, heads_taught=_taught(self.table))

    def explain(self, decision: ExitsDecision) -> str:
        few = f" (only {len(decision.exits)} place left)" if len(decision.exits) < self.table.n_exits else ""
        by = " by bags of features" if decision.head == "bag" else ""
        return f"exits after {', '.join(new.place for new in decision.exits)}{few}{by}"

    def _timed(self, places: list[Place], network: Network, task: Task) -> list[Place]:
        """Return the places in the order of measured time, if that is asked for.

        Raises:
            RefusedError: nothing tells times.
        """
        if self.table.order != "measured" or self.table.places:
            return places
        if task.clock is None:
            raise RefusedError("exits.order = 'measured' needs a clock (task.clock), which a session brings")
        in_order = [place for place in self._places(network) if place in places]
        return by_time.middles_first(in_order, by_time.times_before(in_order, network, task.clock))

    def _free(self, network: Network) -> list[Place]:
        taken = {head.node for head in network.heads.values()}
        return [place for place in self._ordered(network) if place.node not in taken]

    def _ordered(self, network: Network) -> list[Place]:
        """Return the places in the order in which they are used: NAC's for the network, or the user's."""
        places = self._places(network)
        if self.table.places:
            return places
        nodes = {node.name: node for node in network.graph.nodes} if network.graph is not None else {}
        shapes = _shapes(network, {place.node for place in places})
        is_transformer = any(
            len(shape) == 2 and not is_signal(nodes[node], network.backbone) for node, shape in shapes.items()
        )
        deepest = self.table.order == "deepest-first" or (self.table.order == "auto" and is_transformer)
        return list(reversed(places)) if deepest else breadth_first(places)

    def _places(self, network: Network) -> list[Place]:
        if network.graph is None:
            return []
        if not self.table.places:
            return list(exit_places(network.graph, network.backbone))
        found = {name: named_place(network.graph, network.backbone, name) for name in self.table.places}
        for name, place in found.items():
            if place is None:
                raise UsageError(f"exits.places: '{name}' is not the end of a module with a single live tensor")
        return [place for place in found.values() if place is not None]


def _taught(table: ExitTable) -> Distillation | None:
    """Return how the network's own end teaches the heads, or None."""
    return Distillation(table.distill, table.distill_temperature) if table.distill else None


def _shapes(network: Network, nodes: set[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes (without the batch) of the outputs of the given nodes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(node: str, value: Any) -> None:
        shapes[node] = tuple(value.shape[1:])

    network.run(network.example_input(), Simulation(network), note, nodes)
    return shapes
