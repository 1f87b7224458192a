"""How long work takes by its number of candidates: given, or learnt from finished work."""

from __future__ import annotations

from itertools import pairwise

from headway.core import Knots

_FORGET = 1 / 64
_LEARN_AFTER = 16
_MOST_ROWS = 4096


class ServiceTimes:
    """Predicted nanoseconds of one worker for so many candidates.

    Given knots are joined by straight lines, and scaled by what finished work took of late
    beside the prediction, so that busier cores or another machine are believed after some dozens
    of batches. Without knots a line is fitted to finished work, old work being forgotten; until
    then ``known`` is False.
    """

    def __init__(self, knots: Knots = ()) -> None:
        self._table = _table(knots) if knots else []
        self._scale = 1.0
        self._fit = _Line()
        self._given = bool(knots)

    @property
    def known(self) -> bool:
        """Whether there is anything to predict from."""
        return bool(self._table)

    def of(self, candidates: int) -> float:
        """Return the predicted nanoseconds; 0.0 while nothing is known."""
        table = self._table
        if not table:
            return 0.0
        if candidates < len(table):
            return table[candidates] * self._scale
        slope = table[-1] - table[-2]
        return (table[-1] + slope * (candidates - len(table) + 1)) * self._scale

    def curve(self, most: int) -> list[float]:
        """Return the predictions for 0 to ``most`` candidates, unscaled by late observations."""
        table = self._table
        if most < len(table):
            return table[: most + 1]
        slope = table[-1] - table[-2]
        return table + [table[-1] + slope * i for i in range(1, most + 2 - len(table))]

    @property
    def scale(self) -> float:
        """How far finished work was from the given times of late; 1.0 without such."""
        return self._scale

    def observe(self, candidates: int, busy: int) -> bool:
        """Take in finished work; return whether the curve itself is new."""
        if self._given:
            table = self._table
            predicted = table[candidates] if candidates < len(table) else self.of(candidates)
            ratio = min(4.0, max(0.25, busy / predicted))
            self._scale += (ratio - self._scale) * _FORGET
            return False
        self._fit.add(candidates, busy)
        if self._fit.count >= _LEARN_AFTER and self._fit.count % _LEARN_AFTER == 0:
            self._table = self._fit.table(_MOST_ROWS)
            return True
        return False


class _Line:
    """A straight line through (candidates, nanoseconds), by least squares with forgetting."""

    def __init__(self) -> None:
        self.count = 0
        self._w = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: int, y: int) -> None:
        self.count += 1
        keep = 1 - _FORGET / 4
        self._w = self._w * keep + 1
        self._x = self._x * keep + x
        self._y = self._y * keep + y
        self._xx = self._xx * keep + x * x
        self._xy = self._xy * keep + x * y

    def table(self, most: int) -> list[float]:
        """Return the line from 0 to ``most``; neither part of it is negative."""
        spread = self._xx * self._w - self._x * self._x
        slope = 0.0
        if spread > 1e-9 * self._xx * self._w:
            slope = max(0.0, (self._xy * self._w - self._x * self._y) / spread)
        base = (self._y - slope * self._x) / self._w
        if base < 0:
            base, slope = 0.0, self._xy / self._xx
        return [0.0] + [max(1.0, base + slope * n) for n in range(1, most + 1)]


def _table(knots: Knots) -> list[float]:
    """Join the knots by lines, one entry per number of candidates, 0 for none."""
    if len(knots) == 1:
        rows, ns = knots[0]
        return [ns * n / rows for n in range(rows + 2)]
    table = [0.0]
    table += [float(knots[0][1])] * (knots[0][0] - 1)
    for (low, low_ns), (high, high_ns) in pairwise(knots):
        step = (high_ns - low_ns) / (high - low)
        table += [low_ns + step * i for i in range(high - low)]
    table.append(float(knots[-1][1]))
    # Beyond the last knot the last line goes on, but time never shrinks.
    table.append(table[-1] + max(0.0, table[-1] - table[-2]))
    return table
