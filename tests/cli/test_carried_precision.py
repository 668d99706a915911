"""--precision: the precision that was measured on one model, for transfer to and export of another."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run, succeed

MEASURED = {
    "target": "ort",
    "machine": "another machine",
    "layers": {"stem.0": "float", "stages.0.0.conv1": "int8", "other": "float"},
    "kinds": {"stem.0": "conv", "stages.0.0.conv1": "conv", "other": "linear"},
    "speed": {"value": 1.5, "low": 1.4, "high": 1.6},
    "n_timed": 9,
}
SAID = "precision measured for ort on another machine: 2 layers by name, 6 by kind, 2 of kinds that were not measured"


@pytest.fixture(autouse=True)
def precision(home: Path) -> Path:
    path = home / "precision.json"
    path.write_text(json.dumps(MEASURED))
    return path


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def test_transfer_leaves_layers_in_float_that_were_measured_to_be_faster_so() -> None:
    done = succeed("transfer", "--strategy", "QP", "--precision", "precision.json", "--out", "moved")
    assert SAID in done.err
    assert read("moved/strategy.json")["settings"]["quantize"]["exclude"] == ["stem.0", "classifier"]
    succeed("export", "--from", "moved", "--out", "deployed")
    held = {row["layer"]: (row["held"], row["reason"]) for row in read("deployed/lowering.json")}
    assert held["stem.0"] == held["classifier"] == ("float32", "excluded (quantize.exclude, min_snr_db or max_drop)")
    assert held["stages.0.0.conv1"] == ("int8", "")


def test_dry_run_says_what_stays_float() -> None:
    rows = succeed("transfer", "--strategy", "Q", "--precision", "precision.json", "--dry-run", "--json").json
    assert rows[0]["explanation"].startswith("8 layers to w8a8")


def test_export_takes_a_precision_as_it_is() -> None:
    succeed("export", "--from", "runs/transfer-QEF-1", "--precision", "precision.json", "--out", "deployed")
    held = {row["layer"]: (row["held"], row["reason"]) for row in read("deployed/lowering.json")}
    assert held["stem.0"] == ("float32", "measured to be faster in float")
    assert held["stages.0.0.conv1"] == ("int8", "")
    manifest = read("deployed/manifest.json")
    assert "precision.json" not in manifest["files"]
    assert any(note.startswith(SAID) for note in manifest["notes"])


@pytest.mark.parametrize(
    ("command", "text", "code"),
    [
        ("transfer --strategy Q --precision tiny.toml", "tiny.toml is not readable JSON", 2),
        ("transfer --strategy Q --precision nacdeploy.json", "nacdeploy.json does not exist", 2),
        ("transfer --strategy PF --precision precision.json", "'PF' has no Q", 2),
        ("transfer --strategy Q --precision runs/export-ort-1", "was not measured; export it with --autotune", 2),
        ("transfer --strategy Q --precision runs/transfer-QEF-1/result.json", "is not a valid Precisions", 2),
        ("transfer --strategy Q --precision products.json", "the precision of product layers was measured", 2),
        ("export --autotune --precision precision.json", "give one", 2),
        ("export --precision products.json", "the precision of product layers was measured", 2),
    ],
)
def test_precision_that_does_not_fit_is_one_line(command: str, text: str, code: int) -> None:
    products = {**MEASURED, "layers": {"matmul": "float"}, "kinds": {"matmul": "product"}}
    Path("products.json").write_text(json.dumps(products))
    before = {*Path().rglob("*")}
    done = run(*command.split())
    assert done.code == code
    assert done.err.splitlines()[-1].startswith("error: ")
    assert text in done.err.splitlines()[-1]
    assert {*Path().rglob("*")} == before
