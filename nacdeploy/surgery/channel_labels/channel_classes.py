"""Classes of channels that must fall together: a union-find over places, some of them fixed for a reason."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Labels: TypeAlias = npt.NDArray[np.int64]

FIXED = 0  # the label of what is no channel: images, pixels, tokens, constants


class Classes:
    """Labels 0, 1, ... of places; `join` makes classes of them, `fix` says why a class can lose nothing."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._why: dict[int, str] = {}

    def fresh(self, n: int) -> Labels:
        """`n` labels of classes of their own; fixed ones for a single place, which cannot go."""
        if n == 1:
            return np.zeros(1, np.int64)
        made = np.arange(len(self._parent), len(self._parent) + n)
        self._parent = np.concatenate([self._parent, made])
        return made

    def find(self, labels: Labels) -> Labels:
        """The class of each label."""
        found = self._parent[labels]
        while not np.array_equal(found, above := self._parent[found]):
            found = above
        return found

    def join(self, a: Labels, b: Labels, where: str) -> None:
        """Make one class of each pair of labels; what meets a fixed place at `where` is fixed."""
        a, b = (self.find(np.asarray(each)) for each in np.broadcast_arrays(a, b))
        differing = a != b
        pairs = np.unique(np.stack([a[differing], b[differing]]), axis=1)
        for x, y in pairs.T.tolist():
            self._merge(x, y, where)

    def fix(self, labels: Labels, why: str) -> None:
        """Say that the classes of some labels can lose nothing, and why; the first reason stays."""
        for each in np.unique(self.find(labels)).tolist():
            if each != FIXED:
                self._why.setdefault(each, why)

    def why_fixed(self, labels: Labels) -> str | None:
        """Why some of these labels can lose nothing; None where all can."""
        for each in np.unique(self.find(labels)).tolist():
            if each == FIXED or each in self._why:
                return self._why.get(each, "it is no channel")
        return None

    def _root(self, label: int) -> int:
        """The class of one label: `find` without the cost of arrays."""
        while (above := int(self._parent[label])) != label:
            label = above
        return label

    def _merge(self, x: int, y: int, where: str) -> None:
        x, y = self._root(x), self._root(y)
        if FIXED in (x, y):
            self._why.setdefault(max(x, y), where) if x != y else None
        elif x != y:
            low, high = min(x, y), max(x, y)
            self._parent[high] = low
            reason = self._why.get(low) or self._why.get(high)
            if reason:
                self._why[low] = reason
