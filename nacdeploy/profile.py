"""Profile: what is asked of a run, as a TOML file read into validated, frozen tables.

Every key is explained in profiles/README.md. All errors of a file are reported at once, unknown keys with the nearest
known one.
"""

import re
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nacdeploy.errors import UsageError, nearest, unknown
from nacdeploy.precision import Precision


class Table(BaseModel):
    """One TOML table: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataTable(Table):
    n_train: int | None = Field(None, ge=2)
    n_validation: int | None = Field(None, ge=2)
    n_test: int | None = Field(None, ge=2)
    input_size: int | None = Field(None, ge=4)
    augment: Literal["none", "shift", "crop-flip"] = "none"
    split_seed: int = 0


class TrainTable(Table):
    """A training recipe: the baseline's, F's, or the exit heads'."""

    epochs: int = Field(30, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(128, ge=1)
    schedule: Literal["plateau", "cosine", "constant"] = "cosine"
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(1, ge=0)
    early_stop_patience: int | None = Field(None, ge=0)


FINETUNE = TrainTable(epochs=10, learning_rate=0.001, batch_size=256, schedule="plateau", early_stop_patience=1)
EXIT_RECIPE = TrainTable(epochs=5, optimizer="adamw", learning_rate=5e-3, weight_decay=0.0, schedule="constant")


def _over(default: TrainTable, given: Any) -> Any:
    """A recipe given in part keeps the rest of its own default, not of the baseline's."""
    return {**default.model_dump(), **given} if isinstance(given, dict) else given


class PruneTable(Table):
    ratio: float = Field(0.025, gt=0, lt=1)
    multiple: Annotated[int, Field(ge=1)] | Literal["target"] = "target"
    scope: Literal["global", "uniform"] = "global"
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field({})
    importance: Literal[
        "magnitude", "l1", "l2", "fpgm", "slim", "random", "apoz", "mean-activation", "taylor", "greedy", "lasso"
    ] = "magnitude"
    reconstruct: bool = False
    n_calibration: int = Field(256, ge=2)


class QuantizeTable(Table):
    ladder: tuple[str, ...] = ("w8a8", "w4a8")
    calibration: Literal["minmax", "percentile", "mse"] = "percentile"
    percentile: float = Field(99.99, gt=50, le=100)
    n_calibration: int = Field(512, ge=1)
    grid: Literal["measured", "ort", "ort-8bit", "ort-signed", "ort-signed-8bit", "openvino", "openvino-8bit"] = (
        "measured"
    )
    exclude: tuple[str, ...] = ()
    min_channels: int = Field(1, ge=1)
    layer_bits: dict[str, str] = Field({})
    weights: Literal["symmetric", "dorefa", "binary"] = "symmetric"

    @field_validator("layer_bits")
    @classmethod
    def _rungs(cls, layer_bits: dict[str, str]) -> dict[str, str]:
        try:
            return {layer: str(Precision.rung(text)) for layer, text in layer_bits.items()}
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("ladder")
    @classmethod
    def _descending(cls, ladder: tuple[str, ...]) -> tuple[str, ...]:
        try:
            rungs = [Precision.rung(text) for text in ladder]
        except UsageError as error:
            raise ValueError(str(error)) from error
        if not rungs or any(a <= b for a, b in pairwise(rungs)):
            raise ValueError("the ladder must fall from rung to rung, such as ['w8a8', 'w4a8']")
        return tuple(map(str, rungs))


def _below_one(given: float | tuple[float, ...]) -> float | tuple[float, ...]:
    for share in given if isinstance(given, tuple) else (given,):
        if share < 0:
            raise PydanticCustomError("share", "Input should be greater than or equal to 0")
        if share >= 1:
            raise PydanticCustomError("share", "Input should be less than 1")
    if given == ():
        raise PydanticCustomError("share", "A list of shares should hold at least one")
    return given


# A fraction from 0 to below 1, or one for each time that a letter comes.
Stages = Annotated[float | tuple[float, ...], Field(union_mode="left_to_right"), AfterValidator(_below_one)]


class SparsifyTable(Table):
    pattern: Literal["2:4", "element", "kernel", "filter"] = "2:4"
    ratio: Stages = 0.5
    ratios: dict[str, Stages] = Field({})
    patterns: dict[str, Literal["element", "kernel", "filter"]] = Field({})
    importance: Literal["l1", "l2"] = "l1"
    rounding: Literal["floor", "ceil"] = "floor"
    permute: bool = True
    exclude: tuple[str, ...] = ()
    min_channels: int = Field(1, ge=1)


Method = Literal["kmeans", "linear", "fixed_point"]
Init = Literal["kmeans++", "linear", "random", "density"]


@dataclass(frozen=True)
class SharedAs:
    """How the weights of one layer are shared."""

    method: str
    bits: int
    int_bits: int | None
    init: str


class CodeTable(Table):
    method: Method = "kmeans"
    bits: int = Field(4, ge=1, le=16)
    int_bits: int | None = Field(None, ge=-32, le=32)
    init: Init = "kmeans++"
    fix_zeros: bool = True
    codes: Literal["smallest", "huffman", "plain", "fixed_point"] = "smallest"
    run_bits: int | None = Field(None, ge=0, le=16)
    exclude: tuple[str, ...] = ()
    layers: dict[str, str] = {}

    def shared_as(self, layer: str) -> SharedAs:
        """How a layer is shared: by its own entry of `layers`, such as `kmeans:5`, `kmeans:5:linear`, `linear:4` or
        `fixed_point:8:1` (integer bits), else as the others."""
        if layer not in self.layers:
            return SharedAs(self.method, self.bits, self.int_bits, self.init)
        method, bits, *more = self.layers[layer].split(":")
        int_bits = int(more[0]) if more and method == "fixed_point" else None
        init = more[0] if more and method == "kmeans" else self.init
        return SharedAs(method, int(bits), int_bits, init)

    @field_validator("layers")
    @classmethod
    def _entries(cls, layers: dict[str, str]) -> dict[str, str]:
        inits = "|".join(map(re.escape, get_args(Init)))
        shape = re.compile(rf"kmeans:\d+(:({inits}))?|linear:\d+|fixed_point:\d+(:-?\d+)?")
        for layer, text in layers.items():
            if not shape.fullmatch(text) or not 1 <= int(text.split(":")[1]) <= 16:
                raise ValueError(
                    f"'{text}' of {layer} is none of kmeans:BITS, kmeans:BITS:INIT, linear:BITS, fixed_point:BITS, "
                    "fixed_point:BITS:INTEGER_BITS with 1 to 16 bits"
                )
        return layers


Rank = Annotated[int, Field(ge=1)]


class DecomposeTable(Table):
    method: Literal["auto", "svd", "tucker2", "cp3", "cp4"] = "auto"
    rank: Literal["evbmf", "rate", "ratio"] = "evbmf"
    weaken: float = Field(0.8, ge=0, le=1)
    rate: float = Field(2.0, gt=1)
    ratio: float = Field(0.5, gt=0, lt=1)
    min_rank: Rank | None = None
    multiple: Annotated[int, Field(ge=1)] | Literal["target"] = "target"
    ranks: dict[str, Annotated[tuple[Rank, ...] | tuple[tuple[Rank, ...], ...], Field(min_length=1)]] = Field({})
    exclude: tuple[str, ...] = ()
    layers_per_step: int = Field(0, ge=0)
    config: str = ""


class ExitTable(Table):
    n_exits: int = Field(2, ge=1)
    places: tuple[str, ...] = ()
    order: Literal["breadth-first", "deepest-first", "auto"] = "auto"
    grid: int = Field(4, ge=1)
    threshold: float | None = Field(None, gt=0, le=1)
    max_drop: float = Field(0.5, ge=0)
    nac_rho: float = Field(0.136, ge=0)
    recipe: TrainTable = EXIT_RECIPE

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe(cls, given: Any) -> Any:
        return _over(EXIT_RECIPE, given)


class SettleTable(Table):
    n_images: int = Field(2048, ge=1)
    batch_size: int = Field(128, ge=1)


class RulesTable(Table):
    """The rules of a search (NAC's `comp_full`, forced F and truncation); drops are in accuracy points."""

    finetune_due: float = Field(10.0, ge=0)
    forced_factor: float = Field(1.5, ge=1)
    max_prunes: int = Field(20, ge=0)
    max_length: int = Field(66, ge=1)


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
    batch_size: int = Field(64, ge=1)
    width: int = Field(200, ge=1)
    replay_size: int = Field(1_000_000, ge=1)
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


def _figure(name: str, known: tuple[str, ...]) -> str:
    """A figure by its name; measured speed is also called latency."""
    name = "speed" if name == "latency" else name
    if name not in known:
        raise ValueError(str(unknown("figure", name, (*known, "latency"))))
    return name


class SearchTable(Table):
    alphabet: str = "FPEQ"
    searcher: str = "surrogate"
    budget: int = Field(30, ge=1)
    max_trainings: int | None = Field(None, ge=1)
    window: int | None = Field(None, ge=1)
    threads: int = Field(1, ge=1)
    objective: str = "budget"
    objectives: tuple[str, ...] = ()
    figure: str = "bitops"
    max_drop: float = Field(1.0, ge=0)
    latency: Literal["measured", "table"] = "measured"
    latency_table: str | None = None
    n_latency_rounds: int = Field(15, ge=3)
    beam_width: int = Field(2, ge=1)
    nac_accuracy_weight: float = Field(22.5, ge=0)
    cache: str = ""
    cache_gib: float = Field(20.0, gt=0)
    experience: tuple[str, ...] = ()
    rules: RulesTable = RulesTable()
    fidelity: FidelityTable = FidelityTable()
    dqn: DqnTable = DqnTable()

    @property
    def on_speed(self) -> bool:
        """Whether candidates are ranked by how fast they run."""
        if self.objective == "pareto":
            return "speed" in self.objectives
        return self.objective == "latency" or (self.objective == "budget" and self.figure == "speed")

    @model_validator(mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        """Several objectives need no name of their own; `pareto` has its usual three."""
        if not isinstance(given, dict):
            return given
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
            raise ValueError("search.latency_table goes with latency = 'table'")
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
        figures = tuple(dict.fromkeys(_figure(name, ("accuracy", *FIGURES)) for name in names))
        if len(figures) == 1:
            raise ValueError("several objectives are at least two; for one of them set search.figure")
        return figures


class ExportTable(Table):
    opset: int = Field(20, ge=18)
    min_agreement: float = Field(0.99, ge=0, le=1)
    min_snr_db: float = 20.0
    n_parity: int = Field(500, ge=1)
    guard: bool = True
    n_autotune_rounds: int = Field(12, ge=3)
    float_type: Literal["fp32", "fp16"] = "fp16"
    io_type: Literal["fp32", "fp16"] = "fp32"
    compute_capabilities: tuple[str, ...] = ("SM80", "SM86", "SM89", "SM120")
    max_batch: int = Field(16, ge=1)
    workspace_mib: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _types_agree(self) -> "ExportTable":
        if self.io_type == "fp16" and self.float_type == "fp32":
            raise ValueError("io_type = 'fp16' needs float_type = 'fp16'")
        return self


class BenchTable(Table):
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    threads: int = Field(1, ge=1)
    n_rounds: int = Field(30, ge=3)
    round_ms: float = Field(20.0, gt=0)


class Profile(Table):
    """Everything a run needs besides the model's weights."""

    name: str
    description: str = ""
    target: Literal["onnx", "ort", "openvino", "trt", "trt-rtx", "torch-trt"] = "ort"
    model: str = "resnet8"
    width: float | None = Field(None, gt=0)
    data: str = "digits"
    seed: int = Field(0, ge=0)
    images: DataTable = DataTable()
    train: TrainTable = TrainTable()
    finetune: TrainTable = FINETUNE
    prune: PruneTable = PruneTable()
    quantize: QuantizeTable = QuantizeTable()
    sparsify: SparsifyTable = SparsifyTable()
    code: CodeTable = CodeTable()
    decompose: DecomposeTable = DecomposeTable()
    exits: ExitTable = ExitTable()
    settle: SettleTable = SettleTable()
    search: SearchTable = SearchTable()
    export: ExportTable = ExportTable()
    bench: BenchTable = BenchTable()

    def grid_for(self, target: str) -> str:
        """The name of the integer grid for a target. Those of ONNX Runtime and OpenVINO are chosen by measurement
        (`jobs/measured.py`); until then it is the one that every CPU computes exactly."""
        if self.quantize.grid.partition("-")[0] == target:
            return self.quantize.grid
        return "trt" if target in ("trt-rtx", "torch-trt") else target

    @field_validator("finetune", mode="before")
    @classmethod
    def _finetune(cls, given: Any) -> Any:
        return _over(FINETUNE, given)


def shipped_directory() -> Path:
    """Where the shipped profiles lie: package data in a wheel, the repository's profiles/ in an editable install."""
    package = Path(__file__).parent
    return package / "profiles" if (package / "profiles").is_dir() else package.parent / "profiles"


def shipped_names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for path in shipped_directory().glob("*.toml"))


def load(name: str, **overrides: Any) -> Profile:
    """A shipped profile by name, or one from a path ending in `.toml`. Overrides are top-level keys that are not None.

    Raises:
        UsageError: no such profile, or the file has errors (all of them are named).
    """
    path = Path(name) if name.endswith(".toml") else shipped_directory() / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"profile file {name} does not exist; shipped: {', '.join(shipped_names())}")
        raise unknown("profile", name, shipped_names())
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not readable TOML: {error}") from error
    given = {key: value for key, value in overrides.items() if value is not None}
    return from_mapping({"name": path.stem, **data, **given}, where=str(path))


def from_mapping(data: dict[str, Any], where: str = "profile") -> Profile:
    """A profile from plain data.

    Raises:
        UsageError: with every problem of the data in one line.
    """
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where}: " + "; ".join(map(_explain, error.errors()))) from error


def override(profile: Profile, values: dict[str, Any]) -> Profile:
    """The profile with some keys replaced; tables are given in part (`{"search": {"budget": 5}}`).

    Raises:
        UsageError: an unknown key or a value that it does not take.
    """
    data = profile.model_dump(mode="json", exclude_unset=False)
    for key, value in values.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    return from_mapping(data, where="options")


def _explain(problem: Any) -> str:
    *parents, key = problem["loc"]
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}'" + nearest(str(key), _keys_of(parents))
    given = (
        ""
        if isinstance(problem["input"], dict) and problem["type"] == "value_error"
        else f" (given: {problem['input']!r})"
    )
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{given}"


def _keys_of(parents: list[Any]) -> list[str]:
    table: Any = Profile
    for parent in parents:
        table = table.model_fields[parent].annotation
    return list(table.model_fields)
