"""Profile: what is asked of a run, as a TOML file read into validated, frozen tables.

Every key is explained in profiles/README.md. All errors of a file are reported at once, unknown keys with the nearest
known one.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_serializer, model_validator

from nacdeploy.errors import UsageError, nearest, unknown
from nacdeploy.profile.deployment import BenchTable, ExportTable
from nacdeploy.profile.letters import (
    CodeTable,
    DecomposeTable,
    ExitTable,
    PruneTable,
    QuantizeTable,
    SparsifyTable,
)
from nacdeploy.profile.search import SearchTable
from nacdeploy.profile.table import Table
from nacdeploy.profile.training import FINETUNE, DataTable, SettleTable, TrainTable, over
from nacdeploy.records import read_text
from nacdeploy.scores import DEFAULT


class Profile(Table):
    """Everything a run needs besides the model's weights."""

    name: str
    description: str = ""
    target: Literal["onnx", "ort", "openvino", "trt", "trt-rtx", "torch-trt"] = "ort"
    model: str = "resnet8"
    width: float | None = Field(None, gt=0)
    data: str = "digits"
    metric: str = DEFAULT
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

    @model_validator(mode="before")
    @classmethod
    def _data(cls, given: Any) -> Any:
        """`data.classes` is another name for `images.classes`, beside `data.name`."""
        if not isinstance(given, dict) or not isinstance(given.get("data"), dict):
            return given
        named = {key: value for key, value in given["data"].items() if key == "name"}
        images = {**(given.get("images") or {}), **{k: v for k, v in given["data"].items() if k != "name"}}
        rest = {key: value for key, value in given.items() if key not in ("data", "images")}
        return {**rest, **({"data": named["name"]} if named else {}), "images": images}

    @model_validator(mode="before")
    @classmethod
    def _in_its_unit(cls, given: Any) -> Any:
        """A budget in points is that of classification: under another metric it is given, or one of its points."""
        if not isinstance(given, dict) or given.get("metric", DEFAULT) == DEFAULT:
            return given
        search = dict(given.get("search") or {})
        if search.get("objective") == "pareto" and not search.get("objectives"):
            search["objectives"] = ("score", "bitops", "bytes")
        return {**given, "search": {"max_drop": None, **search}}

    @model_serializer(mode="wrap")
    def _without_default_metric(self, serialize: Any) -> Any:
        """Files and keys of classification hold no metric, as before there was another."""
        return {key: value for key, value in serialize(self).items() if (key, value) != ("metric", DEFAULT)}

    @field_validator("finetune", mode="before")
    @classmethod
    def _finetune(cls, given: Any) -> Any:
        return over(FINETUNE, given)


def shipped_directory() -> Path:
    """Where the shipped profiles lie: package data in a wheel, the repository's profiles/ in an editable install."""
    package = Path(__file__).parent.parent
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
        data = tomllib.loads(read_text(path))
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
