"""The counts of make bench-search."""

from benchmarks import search


def test_unsolved_search_counts_twice_its_counts_at_the_cap() -> None:
    found = search.unsolved(search.CAP, 90)
    assert (found.n_evaluations, found.n_trainings, found.solved) == (2 * search.CAP, 180, 0)


def test_unsolved_search_that_ended_early_counts_no_less_than_one_that_went_on() -> None:
    early = search.unsolved(100, 20)
    assert early.n_evaluations == 2 * search.CAP
    assert early.n_trainings == 2 * (20 + search.CAP - 100)


def test_typical_counts_are_medians_with_the_share_that_was_solved() -> None:
    found = search.typical([search.Counts(10, 1), search.Counts(30, 3), search.unsolved(search.CAP, 5)])
    assert (found.n_evaluations, found.n_trainings) == (30, 3)
    assert search.cell(found) == "30 (3), 67% solved"
