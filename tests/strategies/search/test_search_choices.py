"""Searches over choices of parameters, by speed, and with the experience of others."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from search_landscapes import BASELINE, Landscape, run, table

from nacdeploy.base.errors import UsageError
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search import experience, objective
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.observation import observed
from nacdeploy.strategies.search.searchers import SEARCHERS, make_searcher, ratios

CHOICES = "FP(ratio=0.02~0.2)Q"


@dataclass
class Ratios:
    """P(ratio=r) hurts by r squared and divides the MACs by 1 - 2r; small cuts are the better ones."""

    def __call__(self, chain: Chain) -> Evaluation:
        cut = [float(dict(link.parameters).get("ratio", 0.05)) for link in chain if link.letter == "P"]
        n_q = chain.word.count("Q")
        drop = 0.15 * n_q + sum(60.0 * r**2 for r in cut) * (0.4 if chain.word.endswith("F") else 1.0)
        macs = math.prod(1.0 / (1.0 - 2.0 * r) for r in cut)
        figures = Figures(BASELINE - drop / 100, BASELINE, macs * 3**n_q, macs, macs, macs, macs)
        key = str(sorted(map(str, chain)))
        return Evaluation(str(chain), key, figures, {"Q": "used up"} if n_q else {}, trained=chain.word.endswith("F"))


@pytest.mark.parametrize("name", sorted(SEARCHERS))
def test_searcher_proposes_choices_of_the_alphabet(name: str, tmp_path: Path) -> None:
    result = run(tmp_path / "journal", Ratios(), table(searcher=name, alphabet=CHOICES, budget=25))
    used = {str(link) for row in result.evaluations for link in Chain.parse(row.chain)}
    assert used <= {"F", "Q", "P(ratio=0.02)", "P(ratio=0.0431)", "P(ratio=0.0928)", "P(ratio=0.2)"}
    assert result.best is not None and len(result.evaluations) == 26


def test_surrogate_uses_the_better_choices(tmp_path: Path) -> None:
    fine = run(tmp_path / "a", Ratios(), table(alphabet=CHOICES, budget=25)).best
    coarse = run(tmp_path / "b", Ratios(), table(alphabet="FP(ratio=0.2)Q", budget=25)).best
    assert fine is not None and fine.figures is not None and coarse is not None and coarse.figures is not None
    assert fine.figures.bitops_ratio > coarse.figures.bitops_ratio


def test_ratios_survive_the_way_through_logarithms() -> None:
    figures = Figures(0.9, 0.95, 4.0, 2.0, 3.0, 5.0, 6.0, speed_ratio=1.5)
    back = ratios.with_logs(figures, ratios.logs(figures))
    assert back.speed_ratio == pytest.approx(1.5) and back.nac_memory_ratio == pytest.approx(6.0)
    assert ratios.with_logs(figures, ratios.logs(replace(figures, speed_ratio=None))).speed_ratio is None


@dataclass(frozen=True)
class Fastest:
    """Speed within a budget, as a latency objective."""

    max_drop: float = 1.0
    name: str = "latency"

    def score(self, figures: Figures) -> float:
        return figures.macs_ratio if figures.speed_ratio is None else figures.speed_ratio

    def admissible(self, figures: Figures) -> bool:
        return figures.drop_points <= self.max_drop


@pytest.mark.parametrize("known", ["always", "sometimes", "never"])
@pytest.mark.parametrize("name", ["beam", "surrogate"])
def test_searcher_plans_with_speed_where_it_is_known(name: str, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "make", lambda asked: Fastest(), raising=True)
    asked, landscape = table(searcher=name), Landscape()
    searcher, best, n = make_searcher(name, asked, 0), 1.0, 0
    chain: Chain | None = Chain()
    while chain is not None and n < 25:
        row = landscape(chain)
        assert row.figures is not None
        speed = 0.5 * row.figures.macs_ratio**2 + 0.5
        has = known == "always" or (known == "sometimes" and n % 2 == 0)
        row = replace(row, figures=replace(row.figures, speed_ratio=speed if has else None))
        assert row.figures is not None
        searcher.observe(observed(chain, row, Fastest(), asked.rules, asked.alphabet))
        if row.figures.drop_points <= 1.0:
            best = max(best, speed)
        chain, n = searcher.propose(), n + 1
    assert best > 2.0


def test_experience_saves_first_uses_and_takes_no_state_over(tmp_path: Path) -> None:
    elder = run(tmp_path / "elder" / "journal.jsonl", Landscape(), table(budget=30))
    told = experience.gathered([tmp_path / "elder"])
    assert [o.chain.word for o in told[0]] == [row.chain for row in elder.evaluations]
    asked = table(budget=6)
    cold = run(tmp_path / "cold", Landscape(damage_points=0.3), asked)
    warm = run(
        tmp_path / "warm",
        Landscape(damage_points=0.3),
        asked,
        searcher=make_searcher("surrogate", asked, 0, experience=told),
    )
    assert warm.best is not None and warm.best.figures is not None and cold.best is not None and cold.best.figures
    assert warm.best.figures.bitops_ratio >= cold.best.figures.bitops_ratio
    first_best = [[row.chain for row in r.evaluations].index(r.best.chain) for r in (warm, cold) if r.best]
    assert first_best[0] < first_best[1]
    assert len(warm.evaluations) == 7


def test_experience_of_other_letters_is_passed_over(tmp_path: Path) -> None:
    run(tmp_path / "elder" / "journal.jsonl", Landscape(), table(alphabet="FPEQ", budget=40))
    told = experience.gathered([tmp_path / "elder"])
    asked = table(alphabet="P(ratio=0.1)Q", budget=10)
    searcher = make_searcher("surrogate", asked, 0, experience=told)
    assert len(run(tmp_path / "journal", Ratios(), asked, searcher=searcher).evaluations) > 5


def test_experience_that_is_no_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no search run"):
        experience.gathered([tmp_path])
    run(tmp_path / "one" / "journal.jsonl", Landscape(fails=("P", "Q")), table())
    with pytest.raises(UsageError, match="no evaluated chain to learn from"):
        experience.gathered([tmp_path / "one"])
