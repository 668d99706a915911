"""Distillation through the commands: searched shares, a search that goes on, workers, and a result trained further."""

import json
from pathlib import Path

import pytest
from command_line import change, refused_line, rows, run, succeed

from nacdeploy.strategies.steps import checkpoint

TAUGHT = "F(distill=0.5)"


def values(folder: str) -> bytes:
    return Path(folder, "checkpoint", checkpoint.VALUES).read_bytes()


def test_interrupted_search_with_a_teacher_ends_as_one_without_a_break(home: Path) -> None:
    change("search.rules", finetune_due=0.0)
    change("search", alphabet=f"P{TAUGHT}Q", budget=6)
    succeed("search", "--out", "whole")
    succeed("search", "--out", "broken", "--budget", 3)
    succeed("search", "--resume", "broken", "--budget", 6)
    assert rows(Path("whole")) == rows(Path("broken"))
    assert values("whole") == values("broken")
    assert any(TAUGHT in row["chain"] for row in rows(Path("whole"))[1:])


def test_workers_have_the_teacher_too(home: Path) -> None:
    pytest.importorskip("ray")
    change("search.rules", finetune_due=0.0)
    change("search", alphabet=f"P{TAUGHT}Q", budget=5, window=2)
    succeed("search", "--out", "one")
    succeed("search", "--out", "two", "--workers", 2)
    assert any(TAUGHT in row["chain"] for row in rows(Path("one"))[1:])
    assert rows(Path("one")) == rows(Path("two"))


def test_searches_with_one_cache_never_mix_teachers_up(home: Path) -> None:
    """The same words, with and without a teacher, from one memory."""
    change("search.rules", finetune_due=0.0)
    change("search", alphabet="FP(ratio=0.4)", budget=6, cache="shared")
    succeed("search", "--out", "plain")
    change("finetune", distill=1.0)
    succeed("search", "--out", "taught")
    change("search", cache="")
    succeed("search", "--out", "alone")
    assert rows(Path("taught")) == rows(Path("alone"))
    taught, plain = ({row["training"] for row in rows(Path(x)) if row.get("training")} for x in ("taught", "plain"))
    assert taught
    assert not taught & plain


def test_result_is_trained_further_by_its_baseline(home: Path) -> None:
    done = succeed("finetune", "--from", "runs/transfer-QEF-1", "--epochs", 1, "--distill", 1, "--json")
    assert json.loads(done.out)["chain"] == "QEFF(epochs=1,distill=1.0)"


def test_share_that_is_none_is_refused(home: Path) -> None:
    done = run("transfer", "--strategy", "F(distill=1.5)")
    assert done.code == 2
    assert "F(distill=1.5): Input should be less than or equal to 1" in refused_line(done)
