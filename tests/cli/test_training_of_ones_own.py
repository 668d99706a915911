"""A training loop of one's own through the commands: examples/own_training.py, and loops that go wrong."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from command_line import lay_out, refused_line, run, succeed

import nacdeploy

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = (ROOT / "examples" / "own_training.py").read_text()
WRONG = """

def nan(model, settings, budget):
    train(model, settings, budget)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def greedy(model, settings, budget):
    train(model, settings, nacdeploy.Budget(budget.epochs + 2))


def peeking(model, settings, budget):
    train(model, settings, budget)
    TEST[0]


TEST = split(1437, 1797)
diverging = lambda: digits(trainer=nan)
beyond = lambda: digits(trainer=greedy)
looking = lambda: digits(trainer=peeking, test=TEST)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = lay_out(tmp_path)
    (made / "mine.py").write_text(EXAMPLE + WRONG)
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize("word", ["QF", "P(ratio=0.25)F", "SF(epochs=2)"])
def test_chain_is_trained_by_the_loop_of_the_task(here: Path, word: str) -> None:
    succeed("transfer", "--task", "mine.py:digits", "--strategy", word, "--out", "runs/one")
    result = json.loads(Path("runs/one/result.json").read_text())
    assert result["figures"]["accuracy"] > 0.7
    succeed("finetune", "--from", "runs/one", "--epochs", "1", "--out", "runs/more")
    assert json.loads(Path("runs/more/result.json").read_text())["chain"].endswith("F(epochs=1)")


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("diverging", 1, "leaves values in 'backbone.0.weight' that are not finite numbers"),
        ("beyond", 2, "error: Task(trainer=): it trains beyond its budget, 1 x 1100 samples"),
        ("looking", 2, "it reads the test data while networks are trained"),
    ],
)
def test_loop_that_goes_wrong_is_one_line(here: Path, name: str, code: int, said: str) -> None:
    found = run("transfer", "--task", f"mine.py:{name}", "--strategy", "QF", "--out", "runs/one")
    assert found.code == code and said in refused_line(found) and not Path("runs/one").exists()


def test_task_in_python_is_trained_by_its_loop(here: Path) -> None:
    calls: list[int] = []
    example = runpy.run_path(str(ROOT / "examples" / "own_training.py"))

    def counted(model: Any, settings: Any, budget: Any) -> None:
        calls.append(budget.epochs)
        example["train"](model, settings, budget)

    task = example["digits"](trainer=counted)
    result = nacdeploy.transfer(strategy="QF(epochs=2)", task=task, wandb=False)
    assert calls == [2, 2]  # F, and the control row of the float network
    assert result.figures.score > 0.7
