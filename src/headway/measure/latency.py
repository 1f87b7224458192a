"""What one run recorded, and its latencies with intervals that assume no distribution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import ceil, inf, log10

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, to_seconds
from headway.measure.order import order_ranks

STANDARD_PERCENTILES = (50.0, 95.0, 99.0, 99.9)
NEVER = -1
"""Stands in ``sent_ns`` and ``done_ns`` for what did not happen."""


class Outcome(IntEnum):
    """What became of a query; everything but OK counts as an infinite latency."""

    OK = 0
    REFUSED = 1
    LATE = 2
    FAILED = 3
    UNANSWERED = 4
    UNSENT = 5


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """One run of a schedule, a value per query in order of intended arrival.

    Times are nanoseconds from the schedule's start.

    Attributes:
        intended_ns: int64 ``[queries]``, when the schedule wanted the query to arrive.
        sent_ns: int64 ``[queries]``, when the generator got round to it, or ``NEVER``.
        done_ns: int64 ``[queries]``, when its reply was complete, or ``NEVER``.
        status: uint8 ``[queries]`` of ``Outcome``.
        sizes: int64 ``[queries]``, candidates.
        duration_ns: length of the schedule, which rates refer to.
    """

    intended_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    status: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    duration_ns: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together.

        Raises:
            DataError: if lengths differ, arrivals are out of order or the duration is not
                positive.
        """
        lengths = {len(a) for a in (self.sent_ns, self.done_ns, self.status, self.sizes)}
        if lengths != {len(self)}:
            raise DataError(f"a run of {len(self)} queries has columns of lengths {lengths}")
        if (np.diff(self.intended_ns) < 0).any():
            raise DataError("the queries of a run must stand in order of intended arrival")
        if self.duration_ns <= 0:
            raise DataError(f"a run must last some time, not {self.duration_ns} ns")

    def __len__(self) -> int:
        return len(self.intended_ns)

    @property
    def latency_ns(self) -> NDArray[np.float64]:
        """Time from intended arrival to reply, float64 ``[queries]``; infinite without one."""
        answered = (self.status == Outcome.OK) & (self.done_ns >= 0)
        return np.where(answered, self.done_ns - self.intended_ns, inf)

    @property
    def lag_ns(self) -> NDArray[np.float64]:
        """How late the generator itself was, float64 ``[queries]``; infinite where never sent."""
        return np.where(self.sent_ns >= 0, self.sent_ns - self.intended_ns, inf)

    @property
    def offered_qps(self) -> float:
        """Queries per second that the schedule asked for."""
        return len(self) / to_seconds(self.duration_ns)

    @property
    def offered_cps(self) -> float:
        """Candidates per second that the schedule asked for."""
        return int(self.sizes.sum()) / to_seconds(self.duration_ns)

    def after(self, warmup_ns: int) -> RunRecord:
        """Return the run without the queries intended before ``warmup_ns``.

        Raises:
            DataError: if the run did not last that long.
        """
        kept = slice(int(np.searchsorted(self.intended_ns, warmup_ns)), None)
        sent, done = self.sent_ns[kept], self.done_ns[kept]
        return RunRecord(
            intended_ns=self.intended_ns[kept] - warmup_ns,
            sent_ns=np.where(sent < 0, NEVER, sent - warmup_ns),
            done_ns=np.where(done < 0, NEVER, done - warmup_ns),
            status=self.status[kept],
            sizes=self.sizes[kept],
            duration_ns=self.duration_ns - warmup_ns,
        )


class Percentile(msgspec.Struct, frozen=True):
    """A percentile in milliseconds with its interval; infinite where replies are missing."""

    percentile: float
    value_ms: float
    low_ms: float
    high_ms: float


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run in numbers.

    Attributes:
        queries: how many the schedule held.
        outcomes: how many ended in which way, by the lower-case name of ``Outcome``.
        percentiles: of latency from intended arrival.
        mean_ms: mean latency of the answered queries; NaN if there are none.
        max_ms: largest latency; infinite if a query was not answered.
        lag: percentiles of the generator's own delay.
        offered_qps: queries per second of the schedule.
        offered_cps: candidates per second of the schedule.
        achieved_qps: answered queries per second until the last reply.
        achieved_cps: their candidates per second.
    """

    queries: int
    outcomes: dict[str, int]
    percentiles: tuple[Percentile, ...]
    mean_ms: float
    max_ms: float
    lag: tuple[Percentile, ...]
    offered_qps: float
    offered_cps: float
    achieved_qps: float
    achieved_cps: float

    def at(self, percentile: float) -> Percentile:
        """Return one of the percentiles.

        Raises:
            KeyError: if it was not asked for.
        """
        for found in self.percentiles:
            if found.percentile == percentile:
                return found
        raise KeyError(percentile)


def summarize_latency(
    record: RunRecord,
    percentiles: tuple[float, ...] = STANDARD_PERCENTILES,
    confidence: float = 0.95,
) -> LatencySummary:
    """Return a run in numbers.

    Raises:
        DataError: if the run holds no query.
    """
    latency = record.latency_ns
    ok = np.isfinite(latency)
    end = max(record.duration_ns, int(record.done_ns[ok].max(initial=0)))
    return LatencySummary(
        queries=len(record),
        outcomes={o.name.lower(): int((record.status == o).sum()) for o in Outcome},
        percentiles=estimate_percentiles(latency, percentiles, confidence),
        mean_ms=float(latency[ok].mean() / 1e6) if ok.any() else float("nan"),
        max_ms=float(latency.max() / 1e6),
        lag=estimate_percentiles(record.lag_ns, percentiles, confidence),
        offered_qps=record.offered_qps,
        offered_cps=record.offered_cps,
        achieved_qps=int(ok.sum()) / to_seconds(end),
        achieved_cps=int(record.sizes[ok].sum()) / to_seconds(end),
    )


def estimate_percentiles(
    durations_ns: NDArray[np.float64],
    percentiles: tuple[float, ...] = STANDARD_PERCENTILES,
    confidence: float = 0.95,
) -> tuple[Percentile, ...]:
    """Return percentiles (nearest rank) with order-statistic intervals, in milliseconds.

    The interval holds for any distribution of independent values. Latencies of neighbouring
    queries are alike under load, so it is the narrowest that can be claimed for one run.

    Raises:
        DataError: if there are no values.
    """
    if not len(durations_ns):
        raise DataError("no queries to summarise; run longer or cut less warm-up")
    ranked = np.concatenate([[0.0], np.sort(durations_ns) / 1e6, [inf]])
    found = []
    for percentile in percentiles:
        low, high = order_ranks(len(durations_ns), percentile / 100, confidence)
        rank = max(1, ceil(round(percentile / 100 * len(durations_ns), 9)))
        values = (float(ranked[r]) for r in (rank, low, high))
        found.append(Percentile(percentile, *values))
    return tuple(found)


def latency_histogram(
    durations_ns: NDArray[np.float64], bins_per_decade: int = 20
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count finite durations in buckets that grow by a constant factor.

    Returns:
        Edges in nanoseconds, float64 ``[buckets + 1]``, and counts, int64 ``[buckets]``; one
        empty bucket when there is nothing to count.
    """
    finite = np.maximum(durations_ns[np.isfinite(durations_ns)], 1.0)
    if not len(finite):
        return np.array([1.0, 10.0]), np.zeros(1, np.int64)
    first = int(np.floor(log10(finite.min()) * bins_per_decade))
    last = int(np.floor(log10(finite.max()) * bins_per_decade)) + 1
    edges = 10.0 ** (np.arange(first, last + 1) / bins_per_decade)
    place = np.clip(np.searchsorted(edges, finite, side="right") - 1, 0, len(edges) - 2)
    return edges, np.bincount(place, minlength=len(edges) - 1).astype(np.int64)
