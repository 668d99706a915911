"""examples/mobilevit.py, a network with convolutions and attention, through the commands of its first lines."""

import json
from pathlib import Path

import pytest
from command_line import lay_out, run, succeed

PROFILE = """
target = "ort"
data = "digits"

[images]
n_train = 400
n_validation = 150
n_test = 100
input_size = 16

[train]
optimizer = "adamw"
epochs = 5
learning_rate = 0.002
batch_size = 32

[finetune]
optimizer = "adamw"
epochs = 1
learning_rate = 0.001
batch_size = 32

[quantize]
n_calibration = 100

[settle]
n_images = 100
batch_size = 50

[prune]
ratio = 0.1
multiple = 2

[exits]
n_exits = 1

[exits.recipe]
epochs = 1

[export]
guard = false
exits = "whole"
n_parity = 50

[bench]
n_rounds = 3
round_ms = 1.0
"""
MODEL = f"{Path(__file__).parents[1] / 'examples' / 'mobilevit.py'}:small"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lay_out(tmp_path_factory.mktemp("mobilevit"), PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        succeed("train", "--model", MODEL, "--out", "mobilevit")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_chain_with_exits_is_trained_exported_and_scored_alike(here: Path) -> None:
    succeed("transfer", "--checkpoint", "mobilevit", "--strategy", "QPEF", "--out", "found")
    succeed("export", "--from", "found", "--target", "ort", "--out", "artifact")
    scores = json.loads(Path("found/result.json").read_text())["scores"]
    assert scores["baseline"] >= 0.8 and scores["compressed"] >= scores["baseline"] - 0.1
    rows = {row["artifact"]: row for row in succeed("bench", "artifact", "--json").json["rows"]}
    assert rows["artifact"]["accuracy"] == pytest.approx(scores["compressed"], abs=0.021)


@pytest.mark.parametrize("letter", ["P", "Q", "E", "S", "D(ratio=0.25)", "C", "F"])
def test_every_letter_applies_or_says_why_not(here: Path, letter: str) -> None:
    done = run("transfer", "--checkpoint", "mobilevit", "--strategy", letter, "--dry-run", "--json")
    assert done.code == 0, done.err
    (row,) = done.json
    assert row["refused"] is None and row["explanation"]
    expected = {"P": "baseline channels removed", "E": "exits after", "D(ratio=0.25)": "decomposed", "S": "2:4 in"}
    assert expected.get(letter, "") in row["explanation"]
