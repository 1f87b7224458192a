"""Which positions along the axes of values stand and fall together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
FIXED, ANY = -1, -2
"""A position that must stay; and one that follows whatever it meets, such as a broadcast."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What is known of a tensor.

    Attributes:
        axes: labels of the positions along each axis; None where the length is not known.
        late: for each position of the last axis, whether it depends on the candidate; one entry
            where that axis has no known length.
    """

    axes: tuple[Labels | None, ...]
    late: NDArray[np.bool_]

    @property
    def last(self) -> Labels:
        """Labels of the last axis; FIXED where its length is not known."""
        axis = self.axes[-1] if self.axes else None
        return fixed(1) if axis is None else axis


def fixed(size: int) -> Labels:
    """Return labels of positions that must stay."""
    return np.full(size, FIXED, np.int64)


class Classes:
    """Labels, joined into classes that stand and fall together (a union-find)."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._frozen: set[int] = set()
        self._bent: set[int] = set()

    def fresh(self, size: int) -> Labels:
        """Return labels that nothing is joined to yet."""
        start = len(self._parent)
        self._parent += range(start, start + size)
        return np.arange(start, start + size, dtype=np.int64)

    def root(self, label: int) -> int:
        """Return the label that stands for the class of this one."""
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def join(self, first: Labels, second: Labels) -> Labels:
        """Join two axes position by position and return the labels of both together.

        An axis of one position is spread over the other, whose labels go on unchanged.
        """
        if len(first) != len(second):
            wide, narrow = (first, second) if len(first) > len(second) else (second, first)
            if len(narrow) != 1:
                self.freeze(first, second)
                return fixed(len(wide))
            self.freeze(narrow)
            return wide
        together = first.copy()
        for place, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            together[place] = self._joined(a, b)
        return together

    def freeze(self, *axes: Labels | None) -> None:
        """Keep all positions of these axes, whatever else they are joined to."""
        for axis in axes:
            if axis is not None:
                self._frozen.update(self.root(label) for label in axis.tolist() if label >= 0)

    def bend(self, *axes: Labels | None) -> None:
        """Note that values along these axes went through something that is not linear."""
        for axis in axes:
            if axis is not None:
                self._bent.update(label for label in axis.tolist() if label >= 0)

    def frozen(self) -> frozenset[int]:
        """Return the roots of the classes that must stay."""
        return frozenset(map(self.root, self._frozen))

    def bent(self) -> frozenset[int]:
        """Return the roots of the classes that met something that is not linear."""
        return frozenset(map(self.root, self._bent))

    def _joined(self, a: int, b: int) -> int:
        if ANY in (a, b):
            return b if a == ANY else a
        if FIXED in (a, b):
            self.freeze(np.array([a, b]))
            return max(a, b)
        a, b = self.root(a), self.root(b)
        if a != b:
            self._parent[b] = a
            for marks in (self._frozen, self._bent):
                if b in marks:
                    marks.add(a)
        return a


def combined(late: Sequence[NDArray[np.bool_]], size: int) -> NDArray[np.bool_]:
    """Return which positions depend on the candidate, each of several values having a say."""
    total = np.zeros(size, np.bool_)
    for part in late:
        total |= part if len(part) == size else part.any()
    return total


def any_late(value: Value) -> NDArray[np.bool_]:
    """Return as one entry whether any position depends on the candidate."""
    return np.array([value.late.any()])
