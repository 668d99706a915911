"""A smaller dense network is a candidate of a search by time, and the answer where it is better; times are made up."""

import json
from dataclasses import replace
from pathlib import Path

import made_up_times
import pytest
from command_line import change, succeed
from test_time_budget import MORE, phone

from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.trials import dense
from nacdeploy.trials.dense import Dense
from nacdeploy.trials.speed import Speed

__all__ = ["phone"]  # the fixture


def made(state: CompressionState, score: float) -> Dense:
    better = replace(state, metrics=replace(state.metrics, score=score))
    return Dense(None, better, Speed(4.0, None, None, 1.0, 4.0, 3), 9, 4, False)  # type: ignore[arg-type]


def test_best_on_validation_is_the_answer(baseline: CompressionState) -> None:
    score = baseline.metrics.score
    better, equal, best = made(baseline, score + 0.01), made(baseline, score), made(baseline, score + 0.02)
    assert dense.wins([better, best, equal], baseline) is best
    assert dense.wins([equal], None) is equal
    assert dense.wins([equal], baseline) is None
    assert dense.wins([], None) is None


@pytest.mark.parametrize("alphabet", ["FPQ", "PQ"])
def test_dense_network_is_weighed_beside_the_chain(alphabet: str, phone: dict[str, float]) -> None:
    change("search", budget=6, alphabet=alphabet)
    change("train", epochs=8)  # a long training: a chain without F, pruned to an eighth, is no match
    result = succeed("search", "--speedup", 8.0, "--out", "fast", *MORE).json
    names = {each["name"]: each for each in result["candidates"]}
    taught = "dense resnet8 of width 4, taught by the big one, Q"
    assert names.keys() >= {"dense resnet8 of width 4, Q", taught}
    chain = next(each for each in names.values() if not each["is_dense"])
    (answer,) = [each for each in names.values() if each["is_answer"]]
    assert answer["accuracy"] == max(each["accuracy"] for each in names.values())
    assert {each["n_epochs"] for each in names.values()} == {chain["n_epochs"]}
    assert all(each["p50_ms"] <= phone["baseline"] / 8.0 for each in names.values())
    record = checkpoint.read_record(Path("fast/checkpoint"))
    assert (record.model.width == 4) == answer["is_dense"]
    assert result["figures"]["accuracy"] == answer["accuracy"]
    assert alphabet == "FPQ" or answer["is_dense"]
    assert result["n_epochs"] == result["scores"]["n_control_epochs"] == chain["n_epochs"] - 8
    title = f"{answer['name']} on {'' if answer['is_dense'] else 'resnet8, '}digits"
    for text in (Path("fast/report.html").read_text(), Path("fast/report.md").read_text()):
        assert f"{answer['name']} *" in text
        assert f"# {title}\n" in text or f"<title>{title}</title>" in text
    state, _ = checkpoint.load(Path("fast/checkpoint"))
    assert state.metrics.score == pytest.approx(answer["accuracy"])


def test_dense_network_is_left_out_if_asked(phone: dict[str, float]) -> None:
    change("search", budget=2, dense=False)
    result = succeed("search", "--speedup", 3.0, "--out", "fast", *MORE).json
    assert [each["is_answer"] for each in result["candidates"]] == [True]
    assert json.loads(Path("fast/result.json").read_text())["candidates"] == result["candidates"]


FACTORY = """
from torch import nn

def block(n, m):
    return [nn.Conv2d(n, m, 3, padding=1), nn.BatchNorm2d(m), nn.ReLU()]

def make(n_classes, width=16):
    layers = [*block(1, width), *block(width, width), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, n_classes))
"""


def test_users_factory_with_a_width_has_dense_candidates(home: Path) -> None:
    Path("net.py").write_text(FACTORY)
    change("search", budget=2, alphabet="PQ")
    model = ("--model", "net.py:make")
    succeed("train", *model, "--out", "trained")
    state, record = checkpoint.load(Path("trained"))
    table = made_up_times.write(Path("phone.json"), state.network, record.settings(), 2)
    slowest = max(row.p50_ms for row in table.networks)
    result = succeed("search", *model, "--target-ms", slowest / 4, "--out", "fast", *MORE).json
    names = sorted(each["name"] for each in result["candidates"] if each["is_dense"])
    assert names == [f"dense net.py:make?width=12{taught}, Q" for taught in ("", ", taught by the big one")]
    answer = next(each for each in result["candidates"] if each["is_answer"])
    record = checkpoint.read_record(Path("fast/checkpoint"))
    assert record.model.name == ("net.py:make?width=12" if answer["is_dense"] else "net.py:make")
    exported = succeed("export", "--from", "fast", "--target", "ort", "--out", "artifact", "--json").json
    assert Path(exported["artifact"], "model.onnx").is_file()
