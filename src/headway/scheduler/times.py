"""How long work takes by its number of candidates: given, or learnt from finished work."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter

from headway.core import Knots, shortest_ns

_FORGET = 1 / 64
_LEARN_AFTER = 16
_MOST_ROWS = 4096
_NEWS = 0.03
_MOST_NEWS = 4.0
_MOST_SCALE = 1e3
_Points = tuple[tuple[int, float], ...]


class ServiceTimes:
    """Predicted nanoseconds of one worker for so many candidates.

    Given knots are joined by straight lines, and scaled by what finished work took of late
    beside the prediction, so that busier cores or another machine are believed after some dozens
    of batches. Without knots a line is fitted to finished work, old work being forgotten; until
    then ``known`` is False.

    A query's first chunk runs its query tower, which its other chunks are spared; that time is
    part of every prediction for one tower.

    Attributes:
        tower_ns: of the query tower, unscaled; never more than the shortest of the knots, and 0
            without knots.
    """

    def __init__(self, knots: Knots = (), tower_ns: int = 0) -> None:
        self.tower_ns = min(tower_ns, shortest_ns(knots))
        self._points: _Points = knots
        self._table: Sequence[float] = _table(knots) if knots else ()
        self._scale = 1.0
        self._fit = _Line()
        self._told: _Points = ()
        self._given = bool(knots)

    @property
    def known(self) -> bool:
        """Whether there is anything to predict from."""
        return bool(self._points)

    def of(self, candidates: int, towers: int = 1) -> float:
        """Return the predicted nanoseconds, so many query towers among them; 0.0 if unknown."""
        table = self._table
        known = candidates < len(table)
        ns = table[candidates] if known else self._beyond(candidates)
        if towers != 1 and ns:
            ns += (towers - 1) * self.tower_ns
        return ns * self._scale

    def curve(self, most: int) -> list[float]:
        """Return the predictions for 0 to ``most`` candidates, unscaled by late observations."""
        known = list(self._table[: most + 1])
        return known + [_at(self._points, n) for n in range(len(known), most + 1)]

    @property
    def scale(self) -> float:
        """How far finished work was from the given times of late; 1.0 without such."""
        return self._scale

    def observe(self, candidates: int, busy: int, towers: int = 1) -> bool:
        """Take in finished work; return whether the curve itself is new."""
        if candidates < 1:
            return False
        if self._given:
            if not towers and self.tower_ns:
                # It may have waited for its query's tower, which another worker ran.
                return False
            predicted = self.of(candidates, towers) / self._scale
            # One piece of work tells little, so it is believed up to a factor beside the others.
            ratio = min(_MOST_NEWS * self._scale, max(self._scale / _MOST_NEWS, busy / predicted))
            scale = self._scale + (ratio - self._scale) * _FORGET
            self._scale = min(_MOST_SCALE, max(1 / _MOST_SCALE, scale))
            return False
        self._fit.add(candidates, busy)
        if self._fit.count % _LEARN_AFTER:
            return False
        self._points = self._fit.points()
        if not _news(self._told, self._points):
            return False
        self._told = self._points
        return True

    def _beyond(self, candidates: int) -> float:
        return _at(self._points, candidates) if self._points else 0.0


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

    def points(self) -> _Points:
        """Return two points of the line; neither part of it is negative."""
        spread = self._xx * self._w - self._x * self._x
        slope = 0.0
        if spread > 1e-9 * self._xx * self._w:
            slope = max(0.0, (self._xy * self._w - self._x * self._y) / spread)
        base = (self._y - slope * self._x) / self._w
        if base < 0:
            base, slope = 0.0, self._xy / self._xx
        base = max(1.0, base)
        return ((1, base + slope), (1 + _MOST_ROWS, base + slope * (1 + _MOST_ROWS)))


def _news(told: _Points, found: _Points) -> bool:
    """Return whether either end of the line moved so far that decisions should be made anew."""
    ends = zip(told, found, strict=True) if told else ()
    return not told or any(abs(new - old) > _NEWS * old for (_, old), (_, new) in ends)


@lru_cache(maxsize=64)
def _table(knots: Knots) -> tuple[float, ...]:
    """Return the times of up to so many candidates as are common; shared, so never altered."""
    return tuple(_at(knots, n) for n in range(_MOST_ROWS + 1))


def _at(points: _Points, candidates: int) -> float:
    """Return the time on the lines that join the points.

    Before the first point it is as long as there; beyond the last the last line goes on, but
    time never shrinks. A single point stands for a line through zero.
    """
    if len(points) == 1:
        rows, ns = points[0]
        return ns * candidates / rows
    if candidates <= points[0][0]:
        return float(points[0][1]) if candidates else 0.0
    index = min(bisect_right(points, candidates, key=itemgetter(0)), len(points) - 1)
    (low, low_ns), (high, high_ns) = points[index - 1], points[index]
    slope = (high_ns - low_ns) / (high - low)
    if candidates < high:
        return low_ns + slope * (candidates - low)
    return high_ns + max(0.0, slope) * (candidates - high)
