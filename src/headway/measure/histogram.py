"""Latencies counted in buckets: flat memory, a bounded error, and sums of many runs."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import DataError
from headway.measure.latency import STANDARD_PERCENTILES, Percentile
from headway.measure.order import order_ranks

_BITS = 7
_STEPS = 1 << _BITS
_BUCKETS = (64 - _BITS) * _STEPS
RELATIVE_ERROR = 1 / (2 * _STEPS)
"""Largest distance of a percentile from the exact one, relative to the exact one: 0.39 %."""


class LatencyHistogram:
    """Counts durations in whole nanoseconds, however many, in 7,296 buckets.

    Each power of two is cut into 128 equal buckets, as in Tene's HdrHistogram (2012); below 256
    ns every nanosecond has its own. A percentile is the middle of its bucket, so it lies within
    ``RELATIVE_ERROR`` of the exact one. Unanswered queries are counted apart and rank above all
    others. Histograms that were filled separately add up exactly.
    """

    __slots__ = ("_counts", "_unanswered")

    def __init__(self) -> None:
        # A list, because Python raises one entry of it faster than one of an array.
        self._counts = [0] * _BUCKETS
        self._unanswered = 0

    def __len__(self) -> int:
        """Return how many were counted, the unanswered among them."""
        return sum(self._counts) + self._unanswered

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LatencyHistogram):
            return NotImplemented
        return self._counts == other._counts and self._unanswered == other._unanswered

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def unanswered(self) -> int:
        """How many had no reply."""
        return self._unanswered

    def add_one(self, ns: int) -> None:
        """Count one duration; made for the inner loop of a simulator.

        Raises:
            DataError: if it is negative or 2^63 ns and more.
        """
        place = ns
        if ns >= _STEPS:
            shift = ns.bit_length() - _BITS - 1
            place = (shift << _BITS) + (ns >> shift)
        elif ns < 0:
            raise DataError(f"a duration lies between 0 and 2^63 ns, not at {ns}")
        try:
            self._counts[place] += 1
        except IndexError as error:
            raise DataError(f"a duration lies between 0 and 2^63 ns, not at {ns}") from error

    def add_unanswered(self, count: int = 1) -> None:
        """Count queries without a reply."""
        if count < 0:
            raise DataError(f"a count of queries is not negative, as {count} is")
        self._unanswered += count

    def add(self, durations_ns: NDArray[Any]) -> None:
        """Count durations; infinite ones are unanswered, fractions of a nanosecond are cut.

        Args:
            durations_ns: whole or floating, ``[queries]``.

        Raises:
            DataError: if one is negative, not a number, or finite and 2^63 ns or more.
        """
        values = np.asarray(durations_ns)
        finite = values[np.isfinite(values)]
        missing = len(values) - len(finite)
        bad = (finite < 0) | (finite >= 2**63)
        if np.isnan(values).any() or np.isneginf(values).any() or bad.any():
            raise DataError("a duration lies between 0 and 2^63 ns, or is infinite if unanswered")
        places, counts = np.unique(_places(finite.astype(np.int64)), return_counts=True)
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            self._counts[place] += count
        self._unanswered += missing

    def merge(self, other: LatencyHistogram) -> None:
        """Count all that the other one counted, too; the other one stays as it is."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self._unanswered += other._unanswered

    def percentiles(
        self, percentiles: tuple[float, ...] = STANDARD_PERCENTILES, confidence: float = 0.95
    ) -> tuple[Percentile, ...]:
        """Return percentiles (nearest rank) with order-statistic intervals, in milliseconds.

        The intervals reach to the outer edges of their buckets, so that they hold what
        ``estimate_percentiles`` gives for the same whole nanoseconds.

        Args:
            percentiles: in (0, 100).
            confidence: of the two-sided intervals.

        Raises:
            DataError: if nothing was counted.
        """
        count = len(self)
        if not count:
            raise DataError("an empty histogram has no percentiles; add durations first")
        below = np.cumsum(np.array(self._counts, np.int64))
        found = []
        for percentile in percentiles:
            low, high = order_ranks(count, percentile / 100, confidence)
            rank = max(1, ceil(round(percentile / 100 * count, 9)))
            middle = sum(_edges(below, rank)) / 2
            ends = (_edges(below, low)[0], _edges(below, high)[1])
            found.append(Percentile(percentile, *(ns / 1e6 for ns in (middle, *ends))))
        return tuple(found)

    def mean_ms(self) -> float:
        """Return the mean of what was answered, within ``RELATIVE_ERROR``; NaN without any."""
        counts = np.array(self._counts, np.float64)
        used = np.flatnonzero(counts)
        if not len(used):
            return float("nan")
        middles = np.array([sum(_bounds(i)) / 2 for i in used.tolist()])
        return float(np.average(middles, weights=counts[used]) / 1e6)

    def to_json(self) -> bytes:
        """Return the counts as JSON; buckets without any are left out."""
        used = [(i, n) for i, n in enumerate(self._counts) if n]
        return msgspec.json.encode(_Stored(_BITS, self._unanswered, used))

    @classmethod
    def from_json(cls, text: bytes) -> LatencyHistogram:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: if it is something else, or has buckets of another size.
        """
        try:
            stored = msgspec.json.decode(text, type=_Stored)
        except msgspec.MsgspecError as error:
            raise DataError(f"not a latency histogram: {error}") from error
        if stored.bits != _BITS:
            raise DataError(
                f"a histogram with {stored.bits} bits per power of two; this version has {_BITS}"
            )
        histogram = cls()
        histogram._unanswered = stored.unanswered
        for place, count in stored.buckets:
            histogram._counts[place] += count
        return histogram


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bits: int
    unanswered: Annotated[int, Meta(ge=0)]
    buckets: list[tuple[Annotated[int, Meta(ge=0, lt=_BUCKETS)], Annotated[int, Meta(ge=1)]]]


def _places(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket of each duration, as ``add_one`` chooses it.

    Where float64 rounds a duration up to the next power of two, its shift is one too large, and
    the sum comes out the same.
    """
    shift = np.maximum(np.frexp(ns.astype(np.float64))[1].astype(np.int64) - _BITS - 1, 0)
    return np.asarray((shift << _BITS) + (ns >> shift), np.int64)


def _bounds(place: int) -> tuple[float, float]:
    """Return the first and the last whole nanosecond of a bucket."""
    shift = max(0, (place >> _BITS) - 1)
    first = (place - (shift << _BITS)) << shift
    return float(first), float(first + (1 << shift) - 1)


def _edges(below: NDArray[np.int64], rank: int) -> tuple[float, float]:
    """Return between which durations the value of a 1-based rank lies."""
    if rank < 1:
        return 0.0, 0.0
    if rank > below[-1]:
        return float("inf"), float("inf")
    return _bounds(int(np.searchsorted(below, rank)))
