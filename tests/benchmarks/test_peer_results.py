"""The pure part of the peer benchmark: which candidate counts, and what the tables say."""

from benchmarks.peers import results
from benchmarks.peers.results import Row
from nacdeploy.base.latency import Ratio


def row(name: str, kind: str, validation: float, speed: float, test: float | None = None) -> Row:
    return Row(name, kind, validation, test, 1000, 0.1, Ratio(speed, speed * 0.9, speed * 1.1), 16)


BASE = row("FP32", "fp32", 0.92, 1.0, 0.915)


def test_fastest_takes_the_fastest_of_its_kind_within_the_drop() -> None:
    rows = [row("slow", "pruned", 0.92, 3), row("at the limit", "pruned", 0.91, 6), row("too far", "pruned", 0.909, 9)]
    rows.append(row("another kind", "nacdeploy", 0.92, 12))

    found = results.fastest(rows, "pruned", BASE)

    assert found is not None
    assert found.name == "at the limit"


def test_fastest_is_none_when_every_candidate_drops_too_far() -> None:
    assert results.fastest([row("lost", "pruned", 0.8, 9)], "pruned", BASE) is None


def test_quotient_allows_the_widest_interval() -> None:
    assert results.quotient(Ratio(8, 6, 9), Ratio(2, 1.5, 3)) == Ratio(4, 2, 6)


def test_width_of_latency_is_the_widest_of_that_latency() -> None:
    assert results.width_of_latency({6: 1.3, 8: 0.97, 9: 0.7, 16: 0.6}) == 8


def test_width_of_latency_is_the_fastest_when_all_are_slower() -> None:
    assert results.width_of_latency({6: 0.8, 8: 0.9}) == 8


def test_markdown_shows_only_rows_that_were_scored_on_the_test_split() -> None:
    table = results.markdown([BASE, row("left behind", "pruned", 0.9, 4), row("kept", "dense", 0.9, 4, 0.905)], BASE)

    assert "left behind" not in table
    assert "| kept | 90.50 | 1.00 | 1 | 0.100 | 4.00x (3.60-4.40) | 16 |" in table


def test_sweep_says_which_candidates_are_within_the_drop() -> None:
    table = results.sweep([BASE, row("near", "pruned", 0.915, 4), row("far", "nacdeploy", 0.9, 9)], BASE)

    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:]] == ["yes", "no"]


def test_goals_say_no_where_nacdeploy_loses() -> None:
    chain, ptq = row("chain", "nacdeploy", 0.915, 6.5, 0.912), row("Q", "ptq", 0.918, 3, 0.9145)
    peers = [row("static", "quantised", 0.92, 3, 0.9175), row("pruned", "pruned", 0.915, 4, 0.91)]
    found = results.goals([BASE, *peers, chain, ptq], BASE, chain, ptq)

    met = {goal.question: goal.met for goal in found}
    assert not met["chain at least 7x faster than FP32 ONNX Runtime"]
    assert met["chain at least 2x faster than the fastest peer that only quantises (static)"]
    assert met["chain at least 1.4x faster than torch-pruning alone, best ratio (pruned)"]
    assert met["Q at most 0.3 points below FP32"]
    assert not met["Q at most 0.2 points below static"]
