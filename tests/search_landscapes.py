"""Toy landscapes for the tests of searches: figures from formulas, states merged by what the letters did."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nacdeploy.base.errors import DivergedError, RefusedError
from nacdeploy.profile.tables.search import RulesTable, SearchTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search import engine, objective
from nacdeploy.strategies.search.engine import Limits, SearchResult, Standing
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.searchers import make_searcher

BASELINE = 0.98


@dataclass
class Landscape:
    """P hurts convexly, Q costs 0.2 points, an E a little; F leaves a part of all damage. P and Q commute."""

    convexity: float = 1.7
    damage_points: float = 0.35
    left_by_f: float = 0.12
    fails: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)

    def __call__(self, chain: Chain) -> Evaluation:
        word = chain.word
        self.calls.append(word)
        if word in self.fails:
            raise DivergedError(f"the loss of '{word}' is not a number")
        refused = {letter: "used up" for letter, n in (("Q", 1), ("E", 3)) if word.count(letter) >= n}
        if word and word[-1] in refused and word.count(word[-1]) > {"Q": 1, "E": 3}[word[-1]]:
            raise RefusedError("used up")
        training = self._key(word) if word.endswith("F") else None
        return Evaluation(word, self._key(word), self._figures(word), refused, seconds=0.1, training=training)

    def _key(self, word: str) -> str:
        return "F".join("".join(sorted(part)) for part in word.split("F"))

    def _damage(self, word: str) -> float:
        return self.damage_points * word.count("P") ** self.convexity + 0.2 * word.count("Q") + 0.1 * word.count("E")

    def _figures(self, word: str) -> Figures:
        last = word.rfind("F") + 1
        drop = self._damage(word)
        if last:
            drop = self.left_by_f * self._damage(word[:last]) + self._damage(word) - self._damage(word[:last])
        macs = 1.306 ** word.count("P") * 1.1 ** word.count("E")
        bits, size = macs * 3 ** word.count("Q"), 1.2 ** word.count("P") * 4 ** word.count("Q")
        return Figures(max(0.0, BASELINE - drop / 100), BASELINE, bits, macs, size, bits, size)


def table(**changes: object) -> SearchTable:
    """The demo's setting: F due at 0.5 points, at most 1 point lost."""
    rules = RulesTable(finetune_due=0.5, forced_factor=4.0, max_length=20)
    return SearchTable.model_validate({"alphabet": "FPQ", "budget": 16, "rules": rules, **changes})


def run(
    path: Path,
    evaluate: Callable[[Chain], Evaluation],
    settings: SearchTable,
    *,
    searcher: engine.Searcher | None = None,
    seed: int = 0,
    progress: Callable[[Standing], None] = lambda _: None,
) -> SearchResult:
    """A search with a journal at `path`."""
    goal = objective.make(settings)
    with Journal.open(path, {"seed": seed}) as journal:
        return engine.run(
            searcher or make_searcher(settings.searcher, settings, seed, goal),
            engine.in_process(evaluate),
            goal,
            settings.rules,
            settings.alphabet,
            Limits(settings.budget, settings.max_trainings, settings.window or 1),
            journal,
            progress,
        )
