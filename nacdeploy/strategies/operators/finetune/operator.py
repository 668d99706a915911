"""F: recover accuracy by training; quantizers stay alive, the best epoch by validation is kept."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.add_exits.settings import ExitTable
from nacdeploy.strategies.operators.base import Recovery, with_parameters
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task.distillation import Distillation


@dataclass(frozen=True)
class FinetuneDecision:
    """The recipe to run; the step records how many epochs ran.

    `weights` is the rounding of quantized weights from here on, "" for no change: weights adapt to their own rounding
    errors in training, and are then rounded to the nearest, as in training.
    """

    recipe: FinetuneTable
    weights: str = ""


@dataclass(frozen=True)
class Finetune:
    letter: ClassVar[str] = "F"
    name: ClassVar[str] = "Finetune"
    version: ClassVar[int] = 1
    decision_type: ClassVar[type] = FinetuneDecision
    keeps: ClassVar[Literal["score"]] = "score"
    table: FinetuneTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        return cls(with_parameters(cls.letter, profile.of(FinetuneTable), parameters))

    def refusal(self, state: CompressionState) -> str | None:
        if self.table.distill and state.origin is None:
            return "it distils from the network that the chain started from, which is not at hand; distill=0 would work"
        return None

    def decide(self, state: CompressionState, task: Task) -> FinetuneDecision:
        rule = state.network.rule
        return FinetuneDecision(self.table, "symmetric" if rule is not None and rule.weights == "balanced" else "")

    def perform(self, network: Network, decision: FinetuneDecision) -> Network:
        if not decision.weights or network.rule is None:
            return network
        trained = copy.deepcopy(network)
        trained.rule = replace(network.rule, weights=decision.weights)
        return trained

    def undone(self, decision: FinetuneDecision) -> FinetuneDecision:
        return replace(decision, weights="")

    def recovery(self, profile: Profile) -> Recovery | None:
        table, exits = self.table, profile.of(ExitTable)
        taught = Distillation(table.distill, table.distill_temperature) if table.distill else None
        of_heads = Distillation(exits.distill, exits.distill_temperature) if exits.distill else None
        return Recovery(backbone=table, heads=exits.recipe, taught=taught, heads_taught=of_heads)

    def explain(self, decision: FinetuneDecision) -> str:
        weight = decision.recipe.distill
        taught = f", taught by the network of the start (weight {weight:g})" if weight else ""
        return f"train at most {decision.recipe.epochs} epochs, keep the best by validation{taught}"
