"""Resumed runs whose settings, data or code changed, forks of them, and other members of the front."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from command_line import change, refused_line, rows, run, succeed

from nacdeploy.strategies import settle
from nacdeploy.strategies.operators.prune.operator import Prune
from nacdeploy.strategies.steps import advance
from nacdeploy.task import training
from nacdeploy.trials import evaluator

RUN = "runs/search-1"


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chains that are evaluated from now on."""
    chains: list[str] = []
    evaluate = evaluator.Evaluator.__call__

    def noted(self: evaluator.Evaluator, chain: Any) -> Any:
        chains.append(str(chain))
        return evaluate(self, chain)

    monkeypatch.setattr(evaluator.Evaluator, "__call__", noted)
    return chains


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*arguments: Any, **others: Any) -> None:
        raise AssertionError("something is trained")

    monkeypatch.setattr(training, "_fit", trained)


def test_fork_with_a_larger_drop_ranks_the_same_rows_anew(home: Path, evaluated: list[str]) -> None:
    done = succeed("search", "--resume", RUN, "--fork", "--max-drop", 99, "--out", "wide")
    assert "search.max_drop was 30.0 and is 99.0; its 5 rows hold and are ranked anew" in done.err
    assert not set(evaluated) & {row["chain"] for row in rows(Path(RUN))}
    reused = list(evaluated)
    succeed("search", "--max-drop", 99, "--out", "fresh")
    assert rows(Path("wide")) == rows(Path("fresh"))
    assert len(reused) < len(evaluated) - len(reused)
    assert json.loads(Path("wide/result.json").read_text())["front"]


def test_fork_is_a_run_of_its_own_that_is_resumed_and_forked_again(home: Path, evaluated: list[str]) -> None:
    before = Path(RUN, "journal.jsonl").read_bytes()
    succeed("search", "--resume", RUN, "--fork", "--searcher", "beam", "--out", "beam")
    succeed("search", "--resume", "beam", "--budget", 5)
    evaluated.clear()
    succeed("search", "--resume", "beam", "--fork", "--searcher", "surrogate", "--budget", 4, "--out", "back")
    assert evaluated == []
    assert rows(Path("back")) == rows(Path(RUN))
    assert Path(RUN, "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--seed", 1], "seed was 0 and is 1"), (["--width", 6], "width was 8.0 and is 6.0")]
)
def test_fork_takes_nothing_over_where_figures_depend_on_what_changed(
    arguments: list[object], said: str, home: Path
) -> None:
    done = succeed("search", "--resume", RUN, "--fork", *arguments, "--out", "other", "--budget", 2)
    assert said in done.err
    assert "none of its 5 rows holds, everything is evaluated anew" in done.err
    assert not Path("other/taken.jsonl").exists()
    assert len(rows(Path("other"))) == 3


def test_changed_profile_is_refused_by_what_changed_and_forked(home: Path) -> None:
    change("search", max_drop=20.0)
    change("finetune", epochs=2)
    refused = run("search", "--resume", RUN)
    assert refused.code == 2
    assert "finetune.epochs was 1 and is 2, search.max_drop was 30.0 and is 20.0" in refused_line(refused)
    assert f"--resume {RUN} --fork" in refused.err
    done = succeed("search", "--resume", RUN, "--fork", "--out", "new")
    assert "none of its 5 rows holds" in done.err


def test_run_goes_on_without_its_profile_file(home: Path) -> None:
    Path("tiny.toml").unlink()
    succeed("search", "--resume", RUN, "--budget", 5)
    assert len(rows(Path(RUN))) == 6


@pytest.mark.parametrize("what", ["operator", "settle"])
def test_changed_code_is_refused_by_its_version(what: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "operator":
        expected = f"operator.P was {Prune.version} and is 99"
        monkeypatch.setattr(Prune, "version", 99)
    else:
        monkeypatch.setitem(advance.VERSIONS, "settle", settle.SETTLE_VERSION + 1)
        expected = f"code.settle was {settle.SETTLE_VERSION} and is {settle.SETTLE_VERSION + 1}"
    refused = run("search", "--resume", RUN)
    assert refused.code == 2
    assert expected in refused_line(refused)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--fork"], "--fork needs a run that is there"),
        (["--pick", 1], "--pick needs a run that is there"),
        (["--resume", RUN, "--fork", "--pick", 1], "give one of them"),
        (["--resume", RUN, "--pick", 99], "--pick 99 is not in the front of"),
        (["--resume", RUN, "--fork", "--out", RUN], "exists already"),
        (["--resume", "runs/none", "--fork"], "is no search run"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[object], expected: str, home: Path) -> None:
    done = run("search", *arguments)
    assert done.code in (1, 2)
    assert expected in refused_line(done)


def test_every_member_of_the_front_can_be_the_answer_without_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = json.loads(Path(RUN, "result.json").read_text())
    assert [member["number"] for member in result["front"]] == list(range(1, len(result["front"]) + 1))
    drops = [member["drop_points"] for member in result["front"]]
    assert drops == sorted(drops)
    assert result["chain"] in [member["chain"] for member in result["front"]]
    no_training(monkeypatch)
    for member in result["front"]:
        picked = succeed("search", "--resume", RUN, "--pick", member["number"], "--json").json
        assert picked["chain"] == member["chain"]
        assert picked["figures"]["accuracy"] == member["figures"]["accuracy"]
        assert picked["front"] == result["front"]
    assert rows(Path(RUN))


def test_end_without_a_compressed_chain_says_so_and_goes_on(home: Path) -> None:
    change("finetune", learning_rate=1e30)
    change("search", alphabet="FP", budget=1, max_drop=100.0, searcher="random")
    change("search.rules", finetune_due=0.0)
    seed = next(seed for seed in range(20) if random.Random(seed).choice("FP") == "F")
    done = run("search", "--seed", seed, "--out", "poor")
    assert done.code == 1
    line = refused_line(done)
    assert "NO CHAIN that compresses could be evaluated (evaluations: 1, trainings: 1, 1 of them failed" in line
    assert "the last: the loss is not a number" in line
    assert "--resume poor --budget N goes on with the run" in line
    succeed("search", "--resume", "poor", "--budget", 6)


def test_end_without_an_admissible_chain_says_how_far_and_what_works(home: Path, evaluated: list[str]) -> None:
    change("prune", ratio=0.3)
    change("search", alphabet="P", max_drop=0.0, budget=1)
    done = run("search", "--out", "harsh")
    assert done.code == 1
    line = refused_line(done)
    assert "the nearest, 'P', loses" in line
    assert "--resume harsh --fork --max-drop POINTS allows more loss" in line
    evaluated.clear()
    succeed("search", "--resume", "harsh", "--fork", "--max-drop", 100, "--out", "mild")
    assert evaluated == []
