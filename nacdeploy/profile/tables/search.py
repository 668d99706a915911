"""The settings of a search: its objective, its rules, its searcher."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from nacdeploy.base.errors import unknown
from nacdeploy.profile.tables.table import Table


class RulesTable(Table):
    """The rules of a search (NAC's `comp_full`, forced F and truncation); drops are in points.

    Without `by_drop` an F may follow every letter that compresses, and no drop forces one or ends a chain.
    """

    finetune_due: float = Field(10.0, ge=0)
    forced_factor: float = Field(1.5, ge=1)
    max_prunes: int = Field(20, ge=0, le=10_000)
    max_length: int = Field(66, ge=1, le=10_000)
    by_drop: bool = True

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a key that older versions do not know where it says what those did."""
        return {key: value for key, value in write(self).items() if key != "by_drop" or value is not True}


class DqnTable(Table):
    """The `dqn` searcher; the defaults are NAC's."""

    n_random_steps: int = Field(300, ge=0)
    random_f: float = Field(0.6, ge=0, le=1)
    epsilon: float = Field(0.25, ge=0, le=1)
    epsilon_decay: float = Field(0.99, gt=0, le=1)
    decay_every: int = Field(100, ge=1)
    update_every: int = Field(15, ge=1)
    gamma: float = Field(0.99, ge=0, le=1)
    tau: float = Field(0.005, gt=0, le=1)
    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(64, ge=1, le=2**20)
    width: int = Field(200, ge=1, le=2**14)
    replay_size: int = Field(1_000_000, ge=1, le=10**8)
    ramp: bool = True
    best_score: bool = True


class FidelityTable(Table):
    """Cheap looks first: validation images counted until a decision is clear, short finetunes promoted by halving."""

    subsets: bool = True
    confidence: float = Field(0.99, ge=0.5, lt=1)
    min_images: int = Field(1000, ge=1)
    first_images: int = Field(256, ge=1)
    margin: float = Field(1.0, gt=0)
    finetune_fraction: float = Field(1.0, gt=0, le=1)


OBJECTIVES = ("budget", "latency", "nac", "pareto")
FIGURES = ("bitops", "bytes", "macs", "speed")
_LATER = {"target_ms": None, "speedup": None, "max_hours": None, "dense": True}
SCORES = ("accuracy", "score")  # two names of one axis: the first is that of classification


def _figure(name: str, known: tuple[str, ...]) -> str:
    """Return a figure by its name; measured speed is also called latency."""
    name = "speed" if name == "latency" else name
    if name not in known:
        raise ValueError(str(unknown("figure", name, (*known, "latency"))))
    return name


class SearchTable(Table):
    alphabet: str = "FPEQ"
    searcher: str = "surrogate"
    budget: int = Field(30, ge=1)
    max_trainings: int | None = Field(None, ge=1)
    window: int | None = Field(None, ge=1, le=10_000)
    threads: int = Field(1, ge=1, le=4096)
    objective: str = "budget"
    objectives: tuple[str, ...] = ()
    figure: str = "bitops"
    max_drop: float | None = Field(1.0, ge=0)
    latency: Literal["measured", "table"] = "measured"
    latency_table: str | None = None
    n_latency_rounds: int = Field(15, ge=3, le=100_000)
    beam_width: int = Field(2, ge=1, le=10**6)
    nac_accuracy_weight: float = Field(22.5, ge=0)
    cache: str = ""
    cache_gib: float = Field(20.0, gt=0, le=2**30)
    experience: tuple[str, ...] = ()
    rules: RulesTable = RulesTable()
    fidelity: FidelityTable = FidelityTable()
    dqn: DqnTable = DqnTable()
    target_ms: float | None = Field(None, gt=0, le=1e9)
    speedup: float | None = Field(None, gt=0, le=1e6)
    max_hours: float | None = Field(None, gt=0, le=1e6)
    dense: bool = True

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that older versions do not know are not written where they say what those did."""
        return {key: value for key, value in write(self).items() if key not in _LATER or value != _LATER[key]}

    @property
    def is_timed(self) -> bool:
        """Whether a time is the budget."""
        return self.target_ms is not None or self.speedup is not None

    @property
    def on_speed(self) -> bool:
        """Whether candidates are ranked by how fast they run."""
        if self.is_timed:
            return True
        if self.objective == "pareto":
            return "speed" in self.objectives
        return self.objective == "latency" or (self.objective == "budget" and self.figure == "speed")

    @model_validator(mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        """Several objectives need no name of their own; `pareto` has its usual three."""
        if not isinstance(given, dict):
            return given
        if given.get("latency_table") and (given.get("target_ms") or given.get("speedup")):
            given = {**given, "latency": "table"}
        if given.get("objectives") and "objective" not in given:
            return {**given, "objective": "pareto"}
        if given.get("objective") == "pareto" and not given.get("objectives"):
            return {**given, "objectives": ("accuracy", "bitops", "bytes")}
        return given

    @model_validator(mode="after")
    def _objectives_agree(self) -> "SearchTable":
        if self.objectives and self.objective != "pareto":
            raise ValueError(f"search.objectives goes with objective = 'pareto', not with '{self.objective}'")
        if self.latency_table is not None and self.latency != "table":
            raise ValueError(
                "search.latency_table goes with latency = 'table', or with a time (--target-ms, --speedup): give one"
            )
        return self

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, name: str) -> str:
        if name not in OBJECTIVES:
            raise ValueError(str(unknown("objective", name, OBJECTIVES)))
        return name

    @field_validator("figure")
    @classmethod
    def _known_figure(cls, name: str) -> str:
        return _figure(name, FIGURES)

    @field_validator("objectives")
    @classmethod
    def _known_figures(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        figures = tuple(dict.fromkeys(_figure(name, (*SCORES, *FIGURES)) for name in names))
        if len(figures) == 1:
            raise ValueError("several objectives are at least two; for one of them set search.figure")
        return figures
