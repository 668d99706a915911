"""Short finetunes promoted by halving, on landscapes whose F repairs more the longer it trains."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from search_landscapes import BASELINE, Landscape, run, table

from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.engine import SearchResult, in_process
from nacdeploy.strategies.search.halving import promoted, rungs
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.objective import make

SETTINGS = table(budget=10)


@dataclass
class Trained(Landscape):
    """F leaves less the more epochs it has; without any it is the shortest."""

    def __call__(self, chain: Chain) -> Evaluation:
        epochs = min((dict(link.parameters).get("epochs", 2) for link in chain if link.letter == "F"), default=2)
        plain = Landscape(left_by_f=0.4 / epochs)(Chain.parse(chain.word))
        self.calls.append(str(chain))
        training = f"{plain.training}/{epochs}" if plain.training else None
        return replace(plain, chain=str(chain), state_key=f"{plain.state_key}/{epochs}", training=training)


def found(folder: Path, landscape: Landscape) -> SearchResult:
    goal, short = make(SETTINGS), run(folder / "j", landscape, SETTINGS)
    with Journal.open(folder / "j", {"seed": 0}) as journal:
        return promoted(short, goal, in_process(landscape), journal, rungs(8, 0.25)[1:])


@pytest.mark.parametrize(
    ("n_epochs", "fraction", "expected"),
    [
        (8, 0.25, (2, 4, 8)),
        (10, 0.25, (2, 4, 8, 10)),
        (6, 1.0, (6,)),
        (1, 0.1, (1,)),
        (0, 0.5, (1,)),
        (3, 0.01, (1, 2, 3)),
    ],
)
def test_rungs_double_up_to_the_full_length(n_epochs: int, fraction: float, expected: tuple[int, ...]) -> None:
    assert rungs(n_epochs, fraction) == expected


def test_promotion_trains_half_as_many_chains_twice_as_long_each_time(tmp_path: Path) -> None:
    result = found(tmp_path, Trained())
    names = [e.chain for e in result.evaluations if "epochs" in e.chain]
    middle, full = ([n for n in names if f"epochs={k}" in n] for k in (4, 8))
    assert 0 < len(full) <= len(middle)
    assert result.best is not None
    assert result.best.figures is not None
    assert 100 * (BASELINE - result.best.figures.score) <= 1.0


def test_promotion_keeps_what_else_a_training_is_told(tmp_path: Path) -> None:
    settings = table(budget=8, alphabet="F(distill=0.5)PQ")
    goal, short = make(settings), run(tmp_path / "j", Trained(), settings)
    with Journal.open(tmp_path / "j", {"seed": 0}) as journal:
        result = promoted(short, goal, in_process(Trained()), journal, rungs(8, 0.25)[1:])
    promoted_chains = [e.chain for e in result.evaluations if "epochs" in e.chain]
    assert promoted_chains
    assert all(name.count("distill=0.5") == name.count("F") for name in promoted_chains)


def test_promotion_never_worsens_the_answer(tmp_path: Path) -> None:
    short = run(tmp_path / "short", Trained(), SETTINGS)
    long = found(tmp_path, Trained())
    goal = make(SETTINGS)
    assert long.best and long.best.figures and short.best and short.best.figures
    assert goal.worth(long.best.figures) >= goal.worth(short.best.figures)


def test_promotion_is_journaled_and_run_once(tmp_path: Path) -> None:
    landscape = Trained()
    first = found(tmp_path, landscape)
    n_calls = len(landscape.calls)
    assert found(tmp_path, landscape) == first
    assert len(landscape.calls) == n_calls
    assert len(set(landscape.calls)) == n_calls


def test_promotion_counts_each_training(tmp_path: Path) -> None:
    result = found(tmp_path, Trained())
    assert result.n_trainings == sum(Chain.parse(e.chain).word.endswith("F") for e in result.evaluations)
    assert result.n_trainings > run(tmp_path / "short", Trained(), SETTINGS).n_trainings
