"""Several objectives at once: points of which more is better on every axis, and the volume that they dominate.

The hypervolume of a set is the volume of the union of the boxes between its points and the origin (Zitzler and Thiele,
1998); what a point adds to it is the only known gain that never rewards a dominated point.
"""

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere worse and somewhere better."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def non_dominated(points: Sequence[Point]) -> list[Point]:
    """The distinct points that no other dominates, in their order."""
    distinct = list(dict.fromkeys(points))
    return [point for point in distinct if not any(dominates(other, point) for other in distinct)]


def hypervolume(points: Sequence[Point]) -> float:
    """The volume dominated above the origin, exactly, by slices along the last axis (While et al., 2006).

    Points with a coordinate of 0 or less dominate nothing.
    """
    points = [point for point in points if min(point) > 0]
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return max(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1], reverse=True)
    if len(points[0]) == 2:
        return _area(ordered)
    volume = 0.0
    slab: list[Point] = []
    for index, point in enumerate(ordered):
        slab = non_dominated([*slab, point[:-1]])
        below = ordered[index + 1][-1] if index + 1 < len(ordered) else 0.0
        if point[-1] > below:
            volume += hypervolume(slab) * (point[-1] - below)
    return volume


def gained(point: Point, front: Sequence[Point]) -> float:
    """What `point` adds to the hypervolume of `front`: its own box less what the front dominates inside it (While,
    Bradstreet and Barone, 2012, eq. 3)."""
    if min(point) <= 0:
        return 0.0
    inside = [tuple(min(a, b) for a, b in zip(point, other, strict=True)) for other in front]
    return max(0.0, hypervolume([point]) - hypervolume(non_dominated(inside)))


def _area(ordered: Sequence[Point]) -> float:
    """In two dimensions, of points in falling order of the second coordinate."""
    area, reached = 0.0, 0.0
    for x, y in ordered:
        if x > reached:
            area += (x - reached) * y
            reached = x
    return area
