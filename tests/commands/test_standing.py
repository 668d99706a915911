"""The line that says where a search stands."""

from nacdeploy.commands.search import standing
from nacdeploy.strategies.search.engine import Standing
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures

BEST = Evaluation("PQF", "key", Figures(0.9, 0.91, 31.2, 2.0, 8.0, 31.2, 8.0))


def test_standing_names_the_best_what_is_left_and_the_last() -> None:
    progress = Standing(3, 10, BEST, Evaluation("PQ", "key", None), n_trainings=2, max_trainings=5, reused=True)
    assert standing(progress) == (
        "best PQF (31.2x BitOps, +1.00 points lost); left: 7 chains, 3 trainings; last PQ (reused)"
    )


def test_standing_before_anything_is_found() -> None:
    progress = Standing(0, 10, None, Evaluation("", "key", None))
    assert standing(progress) == "best none yet; left: 10 chains; last baseline"
