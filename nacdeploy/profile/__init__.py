"""Profile: what is asked of a run, as a TOML file read into validated, frozen tables.

Every key is explained in profiles/README.md. All errors of a file are reported at once, unknown keys with the nearest
known one.
"""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from nacdeploy.errors import UsageError, nearest, unknown
from nacdeploy.exporters import targets
from nacdeploy.exporters.targets import Target
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


class Profile(Table):
    """Everything a run needs besides the model's weights."""

    name: str
    description: str = ""
    target: str = "ort"
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

    @property
    def parsed_target(self) -> Target:
        """The target that the text names."""
        return targets.parse(self.target)

    @field_validator("target")
    @classmethod
    def _target(cls, given: str) -> str:
        try:
            return targets.parse(given).name
        except UsageError as error:
            raise ValueError(str(error)) from error

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
