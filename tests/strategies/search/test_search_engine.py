from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from search_landscapes import Landscape, run, table

from nacdeploy.base.errors import DivergedError, NacdeployError, UsageError
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.engine import Standing
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.searchers import SEARCHERS, make_searcher


class Scripted:
    """Proposes the given words in turn."""

    def __init__(self, *words: str) -> None:
        self._words: Iterator[str] = iter(words)
        self.observed: list[Observation] = []

    def propose(self) -> Chain | None:
        word = next(self._words, None)
        return None if word is None else Chain.parse(word)

    def observe(self, observation: Observation) -> None:
        self.observed.append(observation)


def words(evaluations: tuple[Evaluation, ...]) -> list[str]:
    return [evaluation.chain for evaluation in evaluations]


def test_the_empty_chain_is_observed_first_and_free(tmp_path: Path) -> None:
    searcher, seen = Scripted("Q", "QP", "QPP"), []
    result = run(tmp_path / "j", Landscape(), table(budget=2), searcher=searcher, progress=seen.append)
    assert words(result.evaluations) == ["", "Q", "QP"]
    assert [progress.n_done for progress in seen] == [0, 1, 2]
    assert searcher.observed[0].legal == ("P", "Q")


def test_progress_names_the_best_so_far(tmp_path: Path) -> None:
    seen: list[Standing] = []
    run(tmp_path / "j", Landscape(), table(), searcher=Scripted("P", "Q", "QP"), progress=seen.append)
    assert [p.best.chain if p.best else None for p in seen] == [None, "P", "Q", "QP"]
    assert [p.last.chain for p in seen] == ["", "P", "Q", "QP"]


def test_a_chain_seen_before_is_answered_and_not_counted(tmp_path: Path) -> None:
    searcher, landscape = Scripted("Q", "Q", "", "Q", "QP"), Landscape()
    run(tmp_path / "j", landscape, table(budget=2), searcher=searcher)
    assert landscape.calls == ["", "Q", "QP"]
    assert [o.chain.word for o in searcher.observed] == ["", "Q", "Q", "", "Q", "QP"]


def test_endless_repeats_end_the_search(tmp_path: Path) -> None:
    searcher = Scripted("Q", *["Q"] * 5000)
    run(tmp_path / "j", Landscape(), table(), searcher=searcher)
    assert len(searcher.observed) < 1100


@pytest.mark.parametrize("proposed", ["QP", "F", "QQ"])
def test_an_illegal_proposal_is_a_bug_of_the_searcher(tmp_path: Path, proposed: str) -> None:
    script = ("Q", "QQ") if proposed == "QQ" else (proposed,)
    with pytest.raises(ValueError, match=f"proposed '{proposed}'"):
        run(tmp_path / "j", Landscape(), table(), searcher=Scripted(*script))


def test_best_prefers_fewer_letters_then_the_earlier(tmp_path: Path) -> None:
    def flat(chain: Chain) -> Evaluation:
        return replace(Landscape()(Chain()), chain=str(chain), state_key=str(chain))

    result = run(tmp_path / "j", flat, table(), searcher=Scripted("P", "PQ", "Q"))
    assert result.best is not None
    assert result.best.chain == "P"


def test_neither_the_empty_chain_nor_a_mere_finetune_is_best(tmp_path: Path) -> None:
    settings = table(rules={"finetune_due": 0.0})
    result = run(tmp_path / "j", Landscape(), settings, searcher=Scripted("F"))
    assert result.best is None and result.nearest is None


def test_nearest_is_the_least_drop_when_nothing_is_admissible(tmp_path: Path) -> None:
    searcher = Scripted("P", "PP", "Q")
    result = run(tmp_path / "j", Landscape(), table(max_drop=0.1), searcher=searcher)
    assert result.best is None
    assert result.nearest is not None and result.nearest.chain == "Q"


def test_nearest_is_not_given_beside_a_best(tmp_path: Path) -> None:
    result = run(tmp_path / "j", Landscape(), table(), searcher=Scripted("P"))
    assert result.best is not None and result.nearest is None


def test_front_holds_what_nothing_beats(tmp_path: Path) -> None:
    result = run(tmp_path / "j", Landscape(), table(), searcher=Scripted("P", "Q", "PQ", "QP", "PP", "PPF"))
    # P loses more than Q and gains less, PPF beats PP, PQ and QP are one point.
    assert words(result.front) == ["Q", "PQ", "PPF"]
    assert result.n_trainings == 1


def test_a_diverged_chain_is_a_row_and_ends_there(tmp_path: Path) -> None:
    searcher, landscape = Scripted("Q", "P"), Landscape(fails=("Q",))
    result = run(tmp_path / "j", landscape, table(), searcher=searcher)
    row, seen = result.evaluations[1], searcher.observed[1]
    assert (row.error, row.figures) == ("the loss of 'Q' is not a number", None)
    assert (seen.admissible, seen.legal, seen.figures, seen.score) == (False, (), None, -float("inf"))
    assert result.best is not None and result.best.chain == "P"


def test_a_returned_failure_and_a_figure_that_is_no_number_are_rows_too(tmp_path: Path) -> None:
    def evaluate(chain: Chain) -> Evaluation:
        row = Landscape()(chain)
        if chain.word == "Q" and row.figures is not None:
            return replace(row, figures=replace(row.figures, score=float("nan")))
        return replace(row, figures=None, error="no engine") if chain.word == "P" else row

    result = run(tmp_path / "j", evaluate, table(), searcher=Scripted("Q", "P"))
    assert [row.error for row in result.evaluations] == [
        None,
        "a figure of the result is not a finite number",
        "no engine",
    ]
    assert len({row.state_key for row in result.evaluations}) == 3


def test_a_baseline_that_fails_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(NacdeployError, match="the untouched model cannot be evaluated: the loss of ''"):
        run(tmp_path / "j", Landscape(fails=("",)), table())
    with Journal.open(tmp_path / "j", {"seed": 0}) as journal:
        assert journal.evaluations == []


@pytest.mark.parametrize("name", sorted(SEARCHERS))
@pytest.mark.parametrize("fails", [(), ("Q", "PP")])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, name: str, fails: tuple[str, ...]) -> None:
    settings, path = table(searcher=name, budget=12), tmp_path / "j"
    whole = run(path, Landscape(fails=fails), settings)
    lines = path.read_bytes().splitlines(keepends=True)
    for n_lines in range(len(lines)):
        for torn in (b"", lines[n_lines][: len(lines[n_lines]) // 2], lines[n_lines][:-1]):
            path.write_bytes(b"".join(lines[:n_lines]) + torn)
            landscape = Landscape(fails=fails)
            assert run(path, landscape, settings) == whole
            finished = max(0, n_lines - 1)
            assert landscape.calls == words(whole.evaluations)[finished:]
            assert path.read_bytes() == b"".join(lines)


def test_a_larger_budget_goes_on_where_the_journal_ends(tmp_path: Path) -> None:
    run(tmp_path / "j", Landscape(), table(budget=6))
    landscape = Landscape()
    longer = run(tmp_path / "j", landscape, table(budget=10))
    assert landscape.calls == words(longer.evaluations)[7:]
    assert longer.evaluations == run(tmp_path / "fresh", Landscape(), table(budget=10)).evaluations


def test_a_kill_in_an_evaluation_loses_only_that_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Landscape(), table())
    finished: list[str] = []

    def killed(chain: Chain) -> Evaluation:
        if len(finished) == 7:
            raise KeyboardInterrupt
        finished.append(chain.word)
        return Landscape()(chain)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "j", killed, table())
    landscape = Landscape()
    assert run(tmp_path / "j", landscape, table()) == whole
    assert not set(finished) & set(landscape.calls)


def test_unknown_searcher_names_the_known_ones() -> None:
    with pytest.raises(
        UsageError, match=r"unknown searcher 'beem'; did you mean 'beam'\?; known: beam, dqn, random, surrogate"
    ):
        make_searcher("beem", table(), 0)


def test_an_error_of_another_kind_is_not_swallowed(tmp_path: Path) -> None:
    def broken(chain: Chain) -> Evaluation:
        raise NacdeployError("the disk is full") if len(chain) else DivergedError("diverged")

    with pytest.raises(NacdeployError, match="untouched model"):
        run(tmp_path / "a", broken, table())
    with pytest.raises(NacdeployError, match="the disk is full"):
        run(tmp_path / "b", lambda chain: broken(chain) if len(chain) else Landscape()(chain), table())
