"""Fronts and hypervolumes, against brute force on a grid of cells."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacdeploy.strategies.search.pareto import Point, dominates, gained, hypervolume, non_dominated

AXIS = st.integers(0, 4)


def points(n_axes: int) -> st.SearchStrategy[list[Point]]:
    return st.lists(st.tuples(*[AXIS] * n_axes), max_size=7)


def cells(found: list[Point], n_axes: int) -> float:
    """The unit cells below any point."""
    below = (
        any(all(c < x for c, x in zip(cell, p, strict=True)) for p in found)
        for cell in product(range(4), repeat=n_axes)
    )
    return float(sum(below))


@pytest.mark.parametrize("n_axes", [1, 2, 3, 4])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hypervolume_counts_every_cell_below_a_point_once(n_axes: int, data: st.DataObject) -> None:
    found = data.draw(points(n_axes))
    assert hypervolume(found) == cells(found, n_axes)


@settings(max_examples=60, deadline=None)
@given(front=points(3), point=st.tuples(AXIS, AXIS, AXIS))
def test_gained_is_the_difference_that_a_point_makes(front: list[Point], point: Point) -> None:
    assert gained(point, front) == pytest.approx(hypervolume([*front, point]) - hypervolume(front))


@given(front=points(3))
def test_what_is_not_dominated_dominates_the_rest(front: list[Point]) -> None:
    kept = non_dominated(front)
    assert not any(dominates(a, b) for a in kept for b in kept)
    assert all(point in kept or any(dominates(other, point) for other in kept) for point in front)


def test_points_outside_the_reference_dominate_nothing() -> None:
    assert hypervolume([(-1.0, 5.0), (0.0, 5.0)]) == gained((5.0, -1.0), [(1.0, 1.0)]) == 0.0
