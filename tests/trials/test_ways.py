"""Searches on latency count exits by the time that is expected of them, and take a static chain that is as good."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import change, succeed

from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.objective import make as make_objective
from nacdeploy.trials import final
from nacdeploy.trials.speed import Speed, _expected
from nacdeploy.trials.ways import timed_key, way_keys


def speed(ratio: float) -> Speed:
    return Speed(ratio, 0.9 * ratio, 1.1 * ratio, 10 / ratio, 10.0, 5)


def state(n_exits: int, shares: tuple[float, ...]) -> Any:
    return SimpleNamespace(
        network=SimpleNamespace(exits=dict.fromkeys(range(n_exits))), metrics=SimpleNamespace(exit_fractions=shares)
    )


def test_expected_time_is_that_of_the_ways_out_by_their_shares() -> None:
    speeds = {"k": speed(2.0), "k/0": speed(10.0), "k/1": speed(1.0)}
    found = _expected(speeds, "k", state(1, (0.75, 0.25)))
    assert found.p50_ms == pytest.approx(0.75 * 1 + 0.25 * 10)
    assert found.ratio == pytest.approx(10 / 3.25)
    assert (found.low, found.high) == (pytest.approx(9 / 3.25), pytest.approx(11 / 3.25))


def test_whole_graph_counts_where_it_is_faster_or_cannot_be_cut() -> None:
    speeds = {"k": speed(5.0), "k/0": speed(4.0), "k/1": speed(3.0)}
    assert _expected(speeds, "k", state(1, (0.5, 0.5))) == speeds["k"]
    assert _expected({"k": speed(2.0)}, "k", state(1, (1.0, 0.0))) == speed(2.0)
    assert way_keys("k", 1) == ["k/0", "k/1"]


def evaluation(chain: str, score: float, ratio: float) -> Evaluation:
    figures = Figures(
        score=score,
        baseline_score=0.95,
        bitops_ratio=2.0,
        macs_ratio=2.0,
        bytes_ratio=2.0,
        nac_bitops_ratio=2.0,
        nac_memory_ratio=2.0,
        speed_ratio=ratio,
        speed_low=0.95 * ratio,
        speed_high=1.05 * ratio,
    )
    return Evaluation(chain=chain, state_key=chain, figures=figures, refused={}, seconds=0.0)


@pytest.mark.parametrize(
    ("static", "expected"),
    [
        (("PQF", 0.94, 2.95), "PQF"),  # within the interval, at no lower score
        (("PQF", 0.94, 3.5), "PQF"),
        (("PQF", 0.93, 2.95), None),
        (("PQF", 0.94, 2.0), None),
        (("PQE", 0.94, 3.0), None),
    ],
)
def test_static_chain_as_fast_takes_the_place_of_exits(static: tuple[str, float, float], expected: str | None) -> None:
    objective = make_objective(SearchTable(objective="latency", max_drop=5.0), 1.0)
    best = evaluation("QEF", 0.94, 3.0)
    found = final._static(best, [best, evaluation(*static)], objective)
    assert (found.chain if found else None) == expected
    plain = evaluation("Q", 0.94, 3.0)
    assert final._static(plain, [plain, evaluation(*static)], objective) is None


def test_search_on_latency_times_the_ways_out(home: Path) -> None:
    change("search", alphabet="QE", budget=3, n_latency_rounds=3)
    result = succeed("search", "--objective", "latency", "--out", "fast", "--json").json
    timed = json.loads(Path("fast/speeds.json").read_text())["search"]
    structures = {key.partition("/")[0] for key in timed if "/" in key}
    assert structures and all({f"{key}/0", f"{key}/1", key} <= timed.keys() for key in structures)
    rows = [json.loads(line) for line in Path("fast/journal.jsonl").read_text().splitlines()[1:]]
    ratios = {row["chain"]: row["figures"]["speed_ratio"] for row in rows if row["figures"]}
    assert all(ratio > 0 for ratio in ratios.values()) and any("E" in chain for chain in ratios)
    assert result["figures"]["speed_ratio"] > 0


def test_shares_are_part_of_what_a_time_is_kept_by(baseline: Any, task: Any, profile: Any) -> None:
    from conftest import follow

    leaving = follow(baseline, "E", task, profile)
    other = replace(leaving, metrics=replace(leaving.metrics, exit_fractions=(1.0, 0.0, 0.0)))
    assert timed_key(leaving) != timed_key(other)
    assert "@" not in timed_key(baseline)
