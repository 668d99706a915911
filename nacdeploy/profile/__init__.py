"""Profile: what is asked of a run, as a TOML file read into validated, frozen tables.

Every key is explained in profiles/README.md. All errors of a file are reported at once, unknown keys with the nearest
known one.
"""

import warnings
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticKnownError

from nacdeploy.base.errors import UsageError, nearest, unknown
from nacdeploy.base.outside import doors
from nacdeploy.base.scores import DEFAULT
from nacdeploy.exporters import targets
from nacdeploy.exporters.targets import Target
from nacdeploy.profile.tables.deployment import BenchTable, ExportTable
from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.profile.tables.table import Table
from nacdeploy.profile.tables.training import DataTable, SettleTable, TrainTable
from nacdeploy.strategies import operators
from nacdeploy.strategies.operators.letter import Letter
from nacdeploy.strategies.operators.others import OtherLetters, others

T = TypeVar("T", bound=Table)


def _target_of(given: object) -> Target:
    """Return the target that a text names, or that another profile has already."""
    if isinstance(given, Target):
        return given
    if not isinstance(given, str):
        raise PydanticKnownError("string_type")
    try:
        return targets.parse(given)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _name_of(target: Target) -> str:
    return target.name


class Profile(Table):
    """Everything a run needs besides the model's weights: what is said here, and a table of each letter (`schema`)."""

    name: str
    description: str = ""
    target: Annotated[Target, PlainValidator(_target_of), PlainSerializer(_name_of, str)] = targets.parse("ort")
    model: str = "resnet8"
    width: float | None = Field(None, gt=0)
    data: str = "digits"
    metric: str = DEFAULT
    seed: int = Field(0, ge=0, lt=2**62)
    images: DataTable = DataTable()
    train: TrainTable = TrainTable()
    settle: SettleTable = SettleTable()
    search: SearchTable = SearchTable()
    export: ExportTable = ExportTable()
    bench: BenchTable = BenchTable()

    def of(self, kind: type[T]) -> T:
        """Return the table of a letter, by its class.

        Raises:
            UsageError: no letter has such a table.
        """
        for name in type(self).model_fields:
            if type(table := getattr(self, name)) is kind:
                return table
        raise UsageError(f"no letter has a table of the class {kind.__name__}; a Letter names the class of its table")

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
        """Drop the budget in points, which is that of classification, under another metric."""
        if not isinstance(given, dict) or given.get("metric", DEFAULT) == DEFAULT:
            return given
        search = dict(given.get("search") or {})
        if search.get("objective") == "pareto" and not search.get("objectives"):
            search["objectives"] = ("score", "bitops", "bytes")
        return {**given, "search": {"max_drop": None, **search}}

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what was not there before only where it says something, so that it changes no record and no key of a
        run without it: another package's table, and the metric of classification."""
        plain = {each.table for each in letters().values() if each not in operators.OPERATORS}
        silent = {table for table in plain if (now := getattr(self, table)) == type(now)()}
        silent |= {"metric"} if self.metric == DEFAULT else set()
        return {key: value for key, value in write(self).items() if key not in silent}


@cache
def _others() -> OtherLetters:
    """Other packages' letters, looked for once: a search makes operators all the time."""
    found = others(operators.OPERATORS, {*Profile.model_fields, *dir(Profile)})
    for problem in found.problems:
        warnings.warn(problem, stacklevel=2)
    return found


def letters() -> dict[str, Letter]:
    """Return the letters of this package and of others, by letter."""
    return {each.letter: each for each in (*operators.OPERATORS, *_others().letters)}


def problems() -> tuple[str, ...]:
    """Describe what is wrong with other packages' letters that are left out, one line each."""
    return _others().problems


@cache
def schema() -> type[Profile]:
    """Return a profile with the tables of all letters: the class of every profile that is read."""
    fields: dict[str, Any] = {each.table: (each.settings, each.settings()) for each in letters().values()}
    return create_model("Profile", __base__=Profile, **fields)


def shipped_directory() -> Path:
    """Return the folder of shipped profiles: package data in a wheel, the repository's profiles/ in an editable
    install."""
    package = Path(__file__).parent.parent
    return package / "profiles" if (package / "profiles").is_dir() else package.parent / "profiles"


def shipped_names() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(path.stem for path in shipped_directory().glob("*.toml"))


def load(name: str, **overrides: Any) -> Profile:
    """Return a shipped profile by name, or one from a path ending in `.toml`. Overrides are top-level keys that are not
    None.

    Raises:
        UsageError: no such profile, or the file has errors (all of them are named).
    """
    written, where = read(name)
    return from_mapping({**written, **{key: value for key, value in overrides.items() if value is not None}}, where)


def read(name: str) -> tuple[dict[str, Any], str]:
    """Read a profile's file: its values by key, and the file's path.

    Raises:
        UsageError: no such profile, or it is no TOML.
    """
    path = Path(name) if name.endswith(".toml") else shipped_directory() / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"profile file {name} does not exist; shipped: {', '.join(shipped_names())}")
        raise unknown("profile", name, shipped_names())
    try:
        return {"name": path.stem, **doors.toml_of(doors.read_text(path), str(path))}, str(path)
    except OSError as error:
        raise UsageError(f"{path} is not readable TOML: {error}") from error


def from_mapping(data: dict[str, Any], where: str = "profile") -> Profile:
    """Return a profile from plain data.

    Raises:
        UsageError: with every problem of the data in one line.
    """
    try:
        return schema().model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where}: " + "; ".join(map(_explain, error.errors()))) from error


def override(profile: Profile, values: dict[str, Any], where: str = "options") -> Profile:
    """Return the profile with some keys replaced; tables are given in part (`{"search": {"budget": 5}}`).

    Raises:
        UsageError: an unknown key or a value that it does not take.
    """
    data = {**profile.model_dump(mode="json"), "target": profile.target}
    for key, value in values.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return from_mapping(data, where)


def _explain(problem: Any) -> str:
    *parents, key = problem["loc"]
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return "; ".join((f"unknown key '{where}'" + nearest(str(key), _keys_of(parents)), *problems()))
    given = (
        ""
        if isinstance(problem["input"], dict) and problem["type"] == "value_error"
        else f" (given: {problem['input']!r})"
    )
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{given}"


def _keys_of(parents: list[Any]) -> list[str]:
    table: Any = schema()
    for parent in parents:
        table = table.model_fields[parent].annotation
    return list(table.model_fields)
