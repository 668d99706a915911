"""Proposers: seeded, kept in a file, and going on after a stop as they would have gone."""

from pathlib import Path

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.experiments.config.grammar import EarlyStop
from nacdeploy.experiments.config.space import Space
from nacdeploy.experiments.driver import proposers
from nacdeploy.experiments.driver.early_stop import falls_behind

SPACES = (Space("a", "float", (0.0, 1.0)), Space("b", "int", (1, 9)), Space("c", "choice", ("x", [1, 2])))


def proposals(path: Path, name: str, n: int, stop_at: int | None = None) -> list[dict[str, object]]:
    """What is proposed up to the n-th job; `stop_at` leaves that job under way."""
    made = []
    with proposers.opened(path, name, SPACES, "max", seed=1) as study:
        waiting = study.unfinished()
        while len(study.results()) < n:
            asked = waiting.pop(0) if waiting else study.ask()
            if asked.number == stop_at:
                break
            made.append(asked.proposal)
            study.report(asked, 1, 0.5)
            study.tell(asked, -((float(asked.proposal["a"]) - 0.3) ** 2))
    return made


@pytest.mark.parametrize("name", ["random", "tpe", "cmaes", "hyperband", "asha", "bohb", "gp"])
def test_stopped_study_goes_on_as_it_would_have_gone(name: str, tmp_path: Path) -> None:
    n = 12 if name != "gp" else 4
    whole = proposals(tmp_path / "whole.jsonl", name, n)
    first = proposals(tmp_path / "parts.jsonl", name, n, stop_at=n - 2)
    assert [*first, *proposals(tmp_path / "parts.jsonl", name, n)] == whole
    assert all(0 <= p["a"] <= 1 and 1 <= p["b"] <= 9 and p["c"] in ("x", [1, 2]) for p in whole)  # type: ignore[operator]


def test_grid_gives_all_combinations_in_order(tmp_path: Path) -> None:
    spaces = (Space("a", "float", (0.0, 1.0), n=2), Space("b", "choice", ("x", "y")))
    with proposers.opened(tmp_path / "s.jsonl", "grid", spaces, "max", 0) as study:
        found = []
        for _ in range(study.size or 0):
            asked = study.ask()
            found.append(tuple(asked.proposal.values()))
            study.tell(asked, 0.0)
    assert found == [(0.0, "x"), (0.0, "y"), (1.0, "x"), (1.0, "y")]


def test_grid_over_an_undivided_range_is_refused() -> None:
    with pytest.raises(UsageError, match="a needs 'interval' or 'n'"):
        proposers.check("grid", SPACES)


def test_interval_holds_for_every_proposer() -> None:
    with proposers.in_memory("random", (Space("a", "float", (0.1, 0.9), interval=0.2),), "max", 0) as study:
        found = {study.ask().proposal["a"] for _ in range(12)}
    assert found <= {0.1, 0.3, 0.5, 0.7, 0.9}
    assert len(found) > 1


@pytest.mark.parametrize("name", ["random", "tpe"])
@pytest.mark.parametrize("space", [Space("a", "int", (1, 8), n=4), Space("a", "float", (0.1, 0.9), n=8)])
def test_so_many_values_of_a_range_are_those_of_the_grid(space: Space, name: str) -> None:
    with proposers.in_memory(name, (space,), "max", 0) as study:
        found = [study.ask() for _ in range(60)]
    assert {asked.proposal["a"] for asked in found} == set(space.values() or ())


def test_seed_may_be_large() -> None:
    seeds = (5_000_000_000, 5_000_000_001)
    made = []
    for seed in (*seeds, *seeds):
        with proposers.in_memory("tpe", SPACES, "max", seed) as study:
            made.append(study.ask().proposal)
    assert made[:2] == made[2:] and made[0] != made[1]


def test_file_of_another_experiment_is_refused(tmp_path: Path) -> None:
    with proposers.opened(tmp_path / "s.jsonl", "random", SPACES, "max", 0, fingerprint="one"):
        pass
    again = proposers.opened(tmp_path / "s.jsonl", "random", SPACES, "max", 0, fingerprint="other")
    with pytest.raises(UsageError, match="another experiment"), again:
        pass


OTHERS = [{1: 0.5, 2: 0.8}, {1: 0.7}, {1: 0.9, 2: 0.9}]


@pytest.mark.parametrize(
    ("policy", "step", "value", "behind"),
    [
        (EarlyStop(aup_policy="median"), 1, 0.6, True),
        (EarlyStop(aup_policy="median"), 1, 0.7, False),
        (EarlyStop(aup_policy="median", warmup=1), 1, 0.1, False),
        (EarlyStop(aup_policy="median", aup_policy_steps=2), 1, 0.1, False),
        (EarlyStop(aup_policy="median"), 3, 0.1, False),
        (EarlyStop(aup_policy="bandit", bandit_factor=0.2), 1, 0.71, True),
        (EarlyStop(aup_policy="bandit", bandit_factor=0.2), 1, 0.73, False),
        (EarlyStop(aup_policy="truncation", truncation_percentage=0.25), 1, 0.4, True),
        (EarlyStop(aup_policy="truncation", truncation_percentage=0.25), 1, 0.6, False),
    ],
)
def test_early_stop_looks_at_others_at_the_same_step(policy: EarlyStop, step: int, value: float, behind: bool) -> None:
    assert falls_behind(policy, step, value, OTHERS, "max") is behind
    mirrored = [{s: -v for s, v in other.items()} for other in OTHERS]
    assert falls_behind(policy, step, -value, mirrored, "min") is behind
