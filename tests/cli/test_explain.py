"""nacdeploy explain and doctor --measure on the artifact that the commands made."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from command_line import files, run, succeed

import nacdeploy
from nacdeploy.exporters.artifacts.artifact import LOWERING, MANIFEST

ARTIFACT = "runs/export-ort-1"


def test_explain_prints_one_document_whose_shares_add_up(home: Path) -> None:
    found = succeed("explain", ARTIFACT, "--json", "--rounds", "3", "--out", "why.json").json
    assert sum(row["time_fraction"] for row in found["rows"]) + found["between_fraction"] == pytest.approx(1.0)
    assert sum(row["macs_fraction"] for row in found["rows"]) == pytest.approx(1.0)
    assert all(row["reason"]["text"] for row in found["rows"])
    assert json.loads(Path("why.json").read_text()) == found


def test_explain_has_a_row_for_every_layer_of_the_lowering_and_the_exits(home: Path) -> None:
    lowered = {row["layer"]: row for row in json.loads((Path(ARTIFACT) / LOWERING).read_text())}
    explained = nacdeploy.explain(ARTIFACT, rounds=3)
    rows = {row.layer: row for row in explained.rows}
    assert lowered.keys() <= rows.keys()
    assert {name: rows[name].asked for name in lowered} == {name: row["asked"] for name, row in lowered.items()}
    assert explained.speed is not None
    assert explained.chain == "QEF"


def test_explain_reads_the_graph_and_not_the_request(home: Path) -> None:
    """A file whose Q/DQ pairs are gone is explained as float, whatever the lowering rows still claim."""
    from nacdeploy.base import records
    from nacdeploy.exporters.artifacts.float_twin import float_twin

    shutil.copytree(ARTIFACT, "float")
    model = Path("float/model.onnx")
    onnx.save(float_twin(onnx.load(model)), model)
    manifest = json.loads(Path("float", MANIFEST).read_text())
    manifest["files"]["model.onnx"] = records.sha256_file(model)
    Path("float", MANIFEST).write_text(json.dumps(manifest))
    explained = nacdeploy.explain("float", rounds=3)
    assert explained.int8_macs_fraction == 0
    assert (explained.speed, explained.twin_call_ms) == (None, None)
    assert {row.facts.held for row in explained.rows} == {"float32"}


def test_explain_prints_a_table_and_the_totals(home: Path) -> None:
    done = succeed("explain", ARTIFACT, "--rounds", "3")
    assert "stages.0.0.conv1" in done.out
    for text in ("INT8 kernels do", "of the float twin", "2:4 weights: 0 of", "time without gain:"):
        assert text in done.out


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda: Path(ARTIFACT, "model.onnx").write_bytes(b"not a model"), "is damaged"),
        (lambda: Path(ARTIFACT, LOWERING).unlink(), "is missing"),
        (lambda: shutil.rmtree(ARTIFACT), "is not an artifact"),
    ],
)
def test_explain_refuses_in_one_line(damage: object, text: str, home: Path) -> None:
    damage()  # type: ignore[operator]
    before = files()
    done = run("explain", ARTIFACT, "--out", "why.json")
    assert (done.code in (1, 2), done.out, len(done.err.splitlines())) == (True, "", 1)
    assert text in done.err
    assert files() == before


def test_doctor_measures_when_asked(home: Path) -> None:
    measured = succeed("doctor", "--json", "--measure").json["measured"]
    assert {e["kind"]: e["weight_bits"] in (7, 8) for e in measured["encodings"]} == {"conv": True, "linear": True}
    assert measured["channels"]["times"]
    assert "channels pay in multiples of" in succeed("doctor", "--measure").out
    assert "measured" not in succeed("doctor", "--json").json
