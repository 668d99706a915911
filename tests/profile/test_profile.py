"""Profiles: every shipped one loads, README.md explains every key, and every error is named at once."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from nacdeploy import profile
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.targets import Target
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies import catalog
from nacdeploy.strategies.operators.add_exits.settings import ExitRecipe
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable

GPU_CAPABILITY = {
    "a100": "SM80",
    "ampere": "SM86",
    "ada": "SM89",
    "blackwell": "SM120",
    "turing": "SM75",
    "orin": "SM87",
    "hopper": "SM90",
}
NAC = [name for name in profile.shipped_names() if name.startswith("nac-")]


def leaves(table: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a schema with their defaults; recipes are left out, their keys being the same three times."""
    for name, field in table.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, TrainTable):
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default.name if isinstance(field.default, Target) else field.default


def readme_rows() -> dict[str, list[str]]:
    text = (profile.shipped_directory() / "README.md").read_text(encoding="utf-8")
    rows = (line.strip("|\n ").split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def shown(value: Any) -> str:
    return "unset" if value is None else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("name", profile.shipped_names())
def test_shipped_profile_loads_and_keeps_its_name(name: str) -> None:
    loaded = profile.load(name)
    assert loaded.name == name
    assert loaded.description.endswith(".")
    assert loaded.export.max_batch >= max(loaded.bench.batch_sizes)


def test_shipped_names_hold_every_promised_profile() -> None:
    networks = ("resnet34", "mobilenet_v2", "deit_tiny")
    data = ("cifar10", "cifar100", "tiny-imagenet")
    promised = {"demo", "cpu-ort", "fashion-mnist", *GPU_CAPABILITY, "nac-deit_tiny-imagenet"}
    promised |= {f"nac-{network}-{name}" for network in networks for name in data}
    assert promised <= set(profile.shipped_names())


def test_readme_explains_every_key_with_its_default() -> None:
    rows = readme_rows()
    defaults = {key: shown(value) for key, value in leaves(profile.schema()) if key != "name"}
    assert "name" in rows
    assert {key: rows[key][-1] for key in defaults} == defaults


def test_readme_explains_every_recipe_key_with_its_three_defaults() -> None:
    rows = readme_rows()
    for key in TrainTable.model_fields:
        expected = [shown(getattr(recipe, key)) for recipe in (TrainTable(), FinetuneTable(), ExitRecipe())]
        assert rows[key][-3:] == expected, key
    own = set(FinetuneTable.model_fields) - set(TrainTable.model_fields)
    assert {key: rows[f"finetune.{key}"][-1] for key in own} == {k: shown(getattr(FinetuneTable(), k)) for k in own}


@pytest.mark.parametrize(("name", "capability"), GPU_CAPABILITY.items())
def test_gpu_profile_builds_for_its_class_in_units_of_tensor_cores(name: str, capability: str) -> None:
    loaded = profile.load(name)
    assert (loaded.target.name, loaded.export.compute_capabilities) == ("trt", (capability,))
    assert (loaded.prune.multiple, loaded.prune.scope) == (32, "uniform")
    assert (loaded.export.float_type, loaded.export.io_type) == ("fp16", "fp32")


@pytest.mark.parametrize("name", NAC)
def test_nac_profile_holds_the_published_constants(name: str) -> None:
    loaded = profile.load(name)
    second = "w6a8" if name == "nac-deit_tiny-imagenet" else "w4a8"
    assert loaded.quantize.ladder == ("w8a8", second)
    assert (loaded.prune.ratio, loaded.prune.multiple, loaded.prune.scope) == (0.025, 1, "global")
    assert (loaded.search.rules.max_prunes, loaded.search.rules.max_length) == (20, 66)
    assert loaded.exits.nac_rho == (0.012 if "deit" in name else 0.136)
    assert loaded.search.objective == "nac"
    assert (loaded.finetune.epochs, loaded.finetune.early_stop_patience) == (10, 1)


@pytest.mark.parametrize(
    ("name", "due", "threshold", "weight", "learning_rate"),
    [
        ("nac-resnet34-cifar10", 10.0, 0.95, 22.5, 1e-3),
        ("nac-resnet34-cifar100", 20.0, 0.95, 15.0, 1e-3),
        ("nac-resnet34-tiny-imagenet", 20.0, 0.7, 15.0, 1e-3),
        ("nac-mobilenet_v2-cifar10", 10.0, 0.97, 22.5, 1e-3),
        ("nac-mobilenet_v2-cifar100", 20.0, 0.97, 22.5, 1e-3),
        ("nac-mobilenet_v2-tiny-imagenet", 20.0, 0.8, 22.5, 5e-4),
        ("nac-deit_tiny-cifar10", 3.0, 0.995, 11.25, 5e-5),
        ("nac-deit_tiny-cifar100", 4.0, 0.35, 11.25, 2.5e-4),
        ("nac-deit_tiny-tiny-imagenet", 4.0, 0.35, 11.25, 2.5e-4),
        ("nac-deit_tiny-imagenet", 4.0, 0.7, 11.25, 5e-5),
    ],
)
def test_nac_profile_holds_its_own_limits(
    name: str, due: float, threshold: float, weight: float, learning_rate: float
) -> None:
    loaded = profile.load(name)
    assert loaded.search.rules.finetune_due == due
    assert loaded.exits.threshold == threshold
    assert loaded.search.nac_accuracy_weight == weight
    assert loaded.finetune.learning_rate == pytest.approx(learning_rate)


def test_each_published_strategy_has_a_profile_of_its_name_and_model() -> None:
    models = {strategy.name: profile.load(strategy.name).model for strategy in catalog.PUBLISHED}
    assert models == {strategy.name: strategy.model for strategy in catalog.PUBLISHED}


def test_load_prefers_overrides_that_are_not_none() -> None:
    loaded = profile.load("demo", data="cifar10", model=None)
    assert (loaded.data, loaded.model) == ("cifar10", "resnet8")


def test_partial_recipe_keeps_the_rest_of_its_own_default() -> None:
    given = profile.from_mapping({"name": "p", "finetune": {"epochs": 3}, "exits": {"recipe": {"epochs": 2}}})
    assert given.finetune == FinetuneTable().model_copy(update={"epochs": 3})
    assert given.exits.recipe == ExitRecipe().model_copy(update={"epochs": 2})


def test_profile_survives_plain_data() -> None:
    loaded = profile.load("nac-deit_tiny-imagenet")
    assert profile.from_mapping(json.loads(loaded.model_dump_json())) == loaded


def test_load_names_the_nearest_profile_when_unknown() -> None:
    with pytest.raises(UsageError, match=r"unknown profile 'dmo'; did you mean 'demo'\?"):
        profile.load("dmo")


def test_load_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.toml does not exist; shipped: .*demo"):
        profile.load(str(tmp_path / "mine.toml"))


def test_load_says_where_toml_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = = 1")
    with pytest.raises(UsageError, match=r"mine\.toml is not readable TOML: .*line 1"):
        profile.load(str(path))


def test_load_reads_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 7\r\n")
    assert profile.load(str(path)).seed == 7


def test_normalisation_takes_names_and_numbers_and_survives_plain_data() -> None:
    given = profile.from_mapping({"name": "p", "images": {"mean": [0.1, 0.2, 0.3], "std": 1}})
    assert (given.images.mean, given.images.std) == ((0.1, 0.2, 0.3), 1.0)
    assert profile.from_mapping(json.loads(given.model_dump_json())) == given
    named = profile.from_mapping({"name": "p", "images": {"mean": "imagenet", "std": "data"}})
    assert (named.images.mean, named.images.std) == ("imagenet", "data")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            {"mean": "imagnet", "std": 1},
            r"images\.mean: takes a number, a list of three, or one of imagenet, data, model",
        ),
        ({"mean": [0.5, 0.5], "std": 1}, r"images\.mean: takes a number, a list of three"),
        ({"mean": 0.5, "std": [1, 1, 0]}, r"images\.std: takes a number above 0, a list of three"),
        ({"mean": True, "std": 1}, r"images\.mean: takes a number"),
        ({"mean": 0.5}, "images: mean is given without std; give both"),
        ({"std": "data"}, "images: std is given without mean; give both"),
        ({"classes": "", "n_classes": 10}, r"images\.classes"),
    ],
)
def test_from_mapping_refuses_images_that_cannot_be_taken_so(images: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^profile: {message}"):
        profile.from_mapping({"name": "p", "images": images})


def test_classes_may_stand_beside_the_name_of_the_data() -> None:
    given = profile.from_mapping(
        {"name": "p", "data": {"name": "folder:x", "classes": "names.txt"}, "images": {"input_size": 8}}
    )
    assert (given.data, given.images.classes, given.images.input_size) == ("folder:x", "names.txt", 8)
    with pytest.raises(UsageError, match=r"unknown key 'images\.clases'; did you mean 'classes'"):
        profile.from_mapping({"name": "p", "data": {"name": "folder:x", "clases": "names.txt"}})


def test_from_mapping_reports_every_error_in_one_line_with_the_nearest_key() -> None:
    wrong = {"name": "p", "sed": 1, "prune": {"ratoi": 0.1, "ratio": 2}, "quantize": {"ladder": ["w4a8", "w8a8"]}}
    with pytest.raises(UsageError) as caught:
        profile.from_mapping(wrong, where="mine.toml")
    text = str(caught.value)
    assert "\n" not in text
    assert "unknown key 'sed'; did you mean 'seed'?" in text
    assert "unknown key 'prune.ratoi'; did you mean 'ratio'?" in text
    assert "prune.ratio: Input should be less than 1 (given: 2)" in text
    assert "the ladder must fall from rung to rung" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"bench": {"batch_sizes": []}},
        {"bench": {"batch_sizes": [0]}},
        {"quantize": {"ladder": []}},
        {"quantize": {"ladder": ["w8"]}},
        {"train": {"learning_rate": float("nan")}},
        {"train": {"learning_rate": float("inf")}},
        {"finetune": 3},
        {"target": "tflite"},
    ],
)
def test_from_mapping_refuses_values_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="profile: "):
        profile.from_mapping({"name": "p", **wrong})


def test_profile_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        profile.load("demo").seed = 3  # type: ignore[misc]


def test_shipped_files_take_their_name_from_the_file() -> None:
    for name in profile.shipped_names():
        text = (profile.shipped_directory() / f"{name}.toml").read_text(encoding="utf-8")
        assert "name" not in tomllib.loads(text), "the file's name is the profile's"
