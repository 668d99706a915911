"""Proposals in flight: what a search finds depends on its window, never on who evaluates or how fast."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from search_landscapes import Landscape, run, table

from nacdeploy.base.errors import LostWorkerError
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search import engine, objective
from nacdeploy.strategies.search.engine import Limits, SearchResult, Standing, Workers, in_process
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.searchers import make_searcher

F_EARLY = {"finetune_due": 0.1, "forced_factor": 100.0}
WALKERS = ("surrogate", "beam", "random")


@dataclass
class Eager:
    """Workers that are done at once, in the order of submitting."""

    evaluate: Callable[[Chain], Evaluation]
    n_open: int = 0
    most_open: int = 0
    submitted: list[str] = field(default_factory=list)

    def __call__(self, chain: Chain) -> "Done":
        self.submitted.append(chain.word)
        self.n_open += 1
        self.most_open = max(self.most_open, self.n_open)
        return Done(self, self.evaluate(chain))


@dataclass
class Done:
    workers: Eager
    evaluation: Evaluation

    def __call__(self) -> Evaluation:
        self.workers.n_open -= 1
        return self.evaluation


@dataclass
class Batches:
    """Proposes a batch, and the next one when the whole batch was observed; None until then."""

    batches: list[list[str]]
    log: list[str] = field(default_factory=list)
    n_open: int = 1

    def propose(self) -> Chain | None:
        if self.batches and self.batches[0]:
            word = self.batches[0].pop(0)
            self.log.append(f"propose {word}")
            self.n_open += 1
            return Chain.parse(word)
        return None

    def observe(self, observation: Observation) -> None:
        self.log.append(f"observe {observation.chain.word}")
        self.n_open -= 1
        if not self.n_open and self.batches and not self.batches[0]:
            self.batches.pop(0)


def search(path: Path, workers: Workers, limits: Limits, name: str = "surrogate", seed: int = 0) -> SearchResult:
    settings = table(searcher=name)
    with Journal.open(path, {"seed": seed}) as journal:
        return engine.run(
            make_searcher(name, settings, seed),
            workers,
            objective.make(settings),
            settings.rules,
            settings.alphabet,
            limits,
            journal,
            lambda _: None,
        )


@pytest.mark.parametrize("name", WALKERS)
@pytest.mark.parametrize("window", [1, 2, 5])
def test_who_evaluates_changes_nothing(tmp_path: Path, name: str, window: int) -> None:
    limits, eager = Limits(14, window=window), Eager(Landscape())
    assert search(tmp_path / "a", in_process(Landscape()), limits, name) == search(tmp_path / "b", eager, limits, name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert eager.most_open <= window
    assert len(eager.submitted) == len(set(eager.submitted)) <= 15


def test_window_of_one_observes_before_it_asks_again(tmp_path: Path) -> None:
    searcher = Batches([["P"], ["PP"], ["Q"]])
    run(tmp_path / "j", Landscape(), table(), searcher=searcher)
    assert searcher.log == ["observe ", "propose P", "observe P", "propose PP", "observe PP", "propose Q", "observe Q"]


def test_window_is_filled_and_observed_in_the_order_of_proposing(tmp_path: Path) -> None:
    searcher = Batches([["P", "Q", "P"], ["QP"]])
    run(tmp_path / "j", Landscape(), table(window=3), searcher=searcher)
    assert searcher.log[1:4] == ["propose P", "propose Q", "propose P"]
    assert [line for line in searcher.log if line.startswith("observe")] == [
        "observe ",
        "observe P",
        "observe Q",
        "observe P",
        "observe QP",
    ]


def test_nothing_to_propose_now_is_asked_again_after_the_next_observation(tmp_path: Path) -> None:
    searcher = Batches([["P"], ["Q"]])
    result = run(tmp_path / "j", Landscape(), table(window=4), searcher=searcher)
    assert [e.chain for e in result.evaluations] == ["", "P", "Q"]


def test_budget_counts_what_is_in_flight(tmp_path: Path) -> None:
    landscape = Landscape()
    result = run(tmp_path / "j", landscape, table(window=6, budget=4))
    assert len(landscape.calls) == len(result.evaluations) == 5


@pytest.mark.parametrize("name", WALKERS)
def test_killed_and_resumed_equals_uninterrupted_with_a_window(tmp_path: Path, name: str) -> None:
    limits, path = Limits(12, window=3), tmp_path / "j"
    whole = search(path, in_process(Landscape()), limits, name)
    lines = path.read_bytes().splitlines(keepends=True)
    for n_lines in range(len(lines)):
        path.write_bytes(b"".join(lines[:n_lines]) + lines[n_lines][:-3])
        eager = Eager(Landscape())
        assert search(path, eager, limits, name) == whole
        assert eager.submitted == [e.chain for e in whole.evaluations][max(0, n_lines - 1) :]
        assert path.read_bytes() == b"".join(lines)


def test_larger_budget_begins_with_the_same_rows(tmp_path: Path) -> None:
    short = search(tmp_path / "j", in_process(Landscape()), Limits(6, window=3))
    longer = search(tmp_path / "j", in_process(Landscape()), Limits(12, window=3))
    assert longer.evaluations[:7] == short.evaluations
    assert longer == search(tmp_path / "fresh", in_process(Landscape()), Limits(12, window=3))


@pytest.mark.parametrize("window", [1, 4])
def test_trainings_end_a_search_and_are_never_more(tmp_path: Path, window: int) -> None:
    limits = Limits(200, max_trainings=3, window=window)
    result = search(tmp_path / "j", Eager(Landscape()), limits)
    assert result.n_trainings == 3
    assert result.evaluations[-1].trained
    assert len({e.training for e in result.evaluations if e.training}) == 3
    longer = search(tmp_path / "j", Eager(Landscape()), replace(limits, max_trainings=5))
    assert longer.n_trainings == 5
    assert longer.evaluations[: len(result.evaluations)] == result.evaluations


def test_equal_trainings_count_once_whoever_ran_them(tmp_path: Path) -> None:
    def flagged(chain: Chain) -> Evaluation:
        return replace(Landscape()(chain), trained=True)

    searcher = Batches([["P", "Q"], ["PQ"], ["QP"], ["PQF"], ["QPF"]])
    result = run(tmp_path / "j", flagged, table(rules=F_EARLY), searcher=searcher)
    by_chain = {e.chain: e.trained for e in result.evaluations}
    assert (by_chain["PQF"], by_chain["QPF"], result.n_trainings) == (True, False, 1)


def test_chain_that_loses_its_workers_is_a_failed_row(tmp_path: Path) -> None:
    def lost(chain: Chain) -> Evaluation:
        if chain.word == "Q":
            raise LostWorkerError("its worker died 3 times")
        return Landscape()(chain)

    result = run(tmp_path / "j", lost, table(), searcher=Batches([["Q", "P"]]))
    assert [e.error for e in result.evaluations] == [None, "its worker died 3 times", None]


def test_rows_taken_from_another_journal_enter_when_they_are_proposed(tmp_path: Path) -> None:
    settings, landscape, seen = table(), Landscape(), list[Standing]()
    whole = run(tmp_path / "a", Landscape(), settings)
    taken = {e.chain: e for e in whole.evaluations[:9]}
    with Journal.open(tmp_path / "b", {"seed": 0}) as journal:
        searcher = make_searcher("surrogate", settings, 0)
        again = engine.run(
            searcher,
            in_process(landscape),
            objective.make(settings),
            settings.rules,
            settings.alphabet,
            Limits(settings.budget),
            journal,
            seen.append,
            taken,
        )
    assert again == whole
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert landscape.calls == [e.chain for e in whole.evaluations[9:]]
    assert all(progress.reused for progress in seen[:9])


def test_progress_counts_trainings_and_tells_reuse(tmp_path: Path) -> None:
    seen: list[Standing] = []
    searcher = Batches([["P", "Q"], ["PQ"], ["QP"], ["PQF"], ["QPF"]])
    run(tmp_path / "j", Landscape(), table(rules=F_EARLY), searcher=searcher, progress=seen.append)
    assert [p.last.chain for p in seen] == ["", "P", "Q", "PQ", "QP", "PQF", "QPF"]
    assert [p.reused for p in seen] == [False, False, False, False, True, False, True]
    assert [p.n_trainings for p in seen] == [0, 0, 0, 0, 0, 1, 1]
    assert sorted(p.seconds for p in seen) == [p.seconds for p in seen]
