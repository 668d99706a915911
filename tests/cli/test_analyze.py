"""nacdeploy analyze: tables, picture and seeds; gone on with after a kill."""

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import run, succeed

from nacdeploy import profile as profiles
from nacdeploy.strategies.steps import sensitivity

LAYER = "stages.1.0.conv1"


@pytest.fixture
def analysed(home: Path) -> Path:
    succeed("analyze", "--out", "runs/a", "--ratios", "0.5", "--layers", LAYER, "--max-drop", "50")
    return Path("runs/a")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_analysis_leaves_tables_picture_and_seeds(analysed: Path) -> None:
    rows = table(analysed / "sensitivity.csv")
    assert [(r["technique"], r["setting"]) for r in rows] == [
        ("prune", "0.5"),
        ("sparsify", "0.5"),
        ("quantize", "w8a8"),
        ("quantize", "w4a8"),
        ("decompose", "0.5"),
    ]
    assert float(rows[0]["bitops_ratio"]) > 1
    assert (analysed / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert sum(int(r["macs"]) for r in table(analysed / "layers.csv")) > 0
    roots = {r["layer"]: r["root"] for r in table(analysed / "dependencies.csv")}
    assert roots["stages.1.0.conv2"] == roots["stages.1.0.shortcut.0"] != roots[LAYER]


def test_seed_is_part_of_a_profile_and_config_list_of_an_experiment(analysed: Path) -> None:
    seed = tomllib.loads((analysed / "seed.toml").read_text())
    assert seed["prune"]["ratios"] == {LAYER: 0.5}
    assert profiles.from_mapping({"name": "seeded", **seed}).quantize.layer_bits == {LAYER: "w4a8"}
    (entry,) = json.loads((analysed / "config_list.json").read_text())
    assert entry == {"sparsity": 0.5, "op_types": ["default"], "op_names": [LAYER]}


def test_stopped_analysis_goes_on_behind_its_last_whole_row(analysed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = analysed / "sensitivity.csv"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + b"stages.1.0.co")
    measured: list[Any] = []
    found_by = sensitivity.found_by
    monkeypatch.setattr(sensitivity, "found_by", lambda *given: measured.append(given[0]) or found_by(*given))
    succeed("analyze", "--resume", analysed)
    assert path.read_bytes() == whole
    assert [probe.setting for probe in measured] == ["w8a8", "w4a8", "0.5"]


def test_written_configuration_decomposes_the_layers_that_it_names(home: Path) -> None:
    succeed("analyze", "--techniques", "decompose", "--ratios", "0.5", "--layers", LAYER, "--write", "low.yaml")
    config = yaml.safe_load(Path("low.yaml").read_text())
    assert config[LAYER]["decomposition"] == "tucker2"
    assert config["classifier"] == {**config[LAYER], "decomposition": "svd"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "stages.1.0.conv9"), "unknown layer"),
        (("--techniques", "prunes"), "unknown technique"),
        (("--ratios", "1.5"), "between 0 and 1"),
        (("--ratios", "half"), "takes numbers"),
        (("--write", "low.yaml", "--config-type", "vbfm"), "did you mean 'vbmf'"),
        (("--resume", "nowhere"), "is no analysis"),
    ],
)
def test_wrong_question_is_one_line(home: Path, options: tuple[str, ...], message: str) -> None:
    outcome = run("analyze", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not list(Path("runs").glob("analyze*"))
