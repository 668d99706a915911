"""A smaller dense network is a candidate of a search by time, and the answer where it is better; times are made up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import change, succeed
from test_time_budget import MORE, phone

from nacdeploy import models
from nacdeploy.models import ModelSpec
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.trials import dense
from nacdeploy.trials.speed import Speed

__all__ = ["phone"]  # the fixture


def spec(name: str, width: float | None) -> ModelSpec:
    return ModelSpec(name, 10, 1, (8, 8), width)


@pytest.mark.parametrize(
    ("name", "width", "first", "n"),
    [
        ("resnet8", 48.0, 44.0, 11),
        ("resnet8", None, 12.0, 3),
        ("mobilenet_v2", 1.0, 0.9375, 15),
        ("deit_tiny", None, 0, 0),
    ],
)
def test_family_of_a_built_in_network_is_its_smaller_widths(
    name: str, width: float | None, first: float, n: int
) -> None:
    widths = models.narrower(spec(name, width))
    assert len(widths) == n
    assert list(widths) == sorted(widths, reverse=True)
    assert widths[:1] == ((first,) if n else ())


def test_better_one_on_validation_wins(baseline: CompressionState) -> None:
    better = replace(baseline, metrics=replace(baseline.metrics, score=baseline.metrics.score + 0.01))
    made = dense.Dense(None, better, Speed(4.0, None, None, 1.0, 4.0, 3), 4.0, 9)  # type: ignore[arg-type]
    assert dense.wins(made, baseline)
    assert dense.wins(made, None)
    assert not dense.wins(replace(made, state=baseline), better)
    assert not dense.wins(replace(made, state=baseline), baseline)
    assert not dense.wins(None, baseline)


@pytest.mark.parametrize("alphabet", ["FPQ", "PQ"])
def test_dense_network_is_weighed_beside_the_chain(alphabet: str, phone: dict[str, float]) -> None:
    change("search", budget=6, alphabet=alphabet)
    change("train", epochs=8)  # a long training: a chain without F, pruned to an eighth, is no match
    result = succeed("search", "--speedup", 8.0, "--out", "fast", *MORE).json
    names = {each["name"]: each for each in result["candidates"]}
    (own,) = [each for name, each in names.items() if name.startswith("dense resnet8 of width")]
    chain = next(each for name, each in names.items() if not name.startswith("dense"))
    (answer,) = [each for each in names.values() if each["is_answer"]]
    assert answer["accuracy"] == max(own["accuracy"], chain["accuracy"])
    assert own["n_epochs"] == chain["n_epochs"]
    assert all(each["p50_ms"] <= phone["baseline"] / 8.0 for each in names.values())
    record = checkpoint.read_record(Path("fast/checkpoint"))
    assert (record.model.width == 4) == (answer is own)
    assert result["figures"]["accuracy"] == answer["accuracy"]
    assert alphabet == "FPQ" or answer is own
    state, _ = checkpoint.load(Path("fast/checkpoint"))
    assert state.metrics.score == pytest.approx(answer["accuracy"])


def test_dense_network_is_left_out_if_asked(phone: dict[str, float]) -> None:
    change("search", budget=2, dense=False)
    result = succeed("search", "--speedup", 3.0, "--out", "fast", *MORE).json
    assert [each["is_answer"] for each in result["candidates"]] == [True]
    assert json.loads(Path("fast/result.json").read_text())["candidates"] == result["candidates"]
