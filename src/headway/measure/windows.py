"""One run as a series in time: when it was busy, slow or in violation of its SLA."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import Ns, Sla, UsageError, from_seconds, to_seconds
from headway.measure.latency import Outcome, RunRecord, estimate_percentiles
from headway.measure.order import queries_needed

_LENGTHS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_MOST_WINDOWS = 120


class RunWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of a run; queries belong to the window of their intended arrival.

    Attributes:
        start_s: seconds from the schedule's start.
        seconds: length.
        offered_qps: queries per second that the schedule asked for.
        achieved_qps: replies per second that were complete within the window, whenever their
            queries had arrived.
        p50_ms, p95_ms, p99_ms, sla_ms: percentiles of latency, the last that of the SLA;
            infinite where replies are missing, NaN in a window without queries.
        outcomes: how many ended in which way, by the lower-case name of ``Outcome``.
        violations: queries over the SLA's limit, the unanswered among them.
        missed: the SLA's percentile of this window is over its limit.
    """

    start_s: float
    seconds: float
    offered_qps: float
    achieved_qps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    sla_ms: float
    outcomes: dict[str, int]
    violations: int
    missed: bool


def run_windows(record: RunRecord, sla: Sla, window_ns: Ns | None = None) -> list[RunWindow]:
    """Return a run cut into windows of equal length.

    Args:
        record: the run; warm-up should be cut from it.
        sla: which percentile is judged, and its limit.
        window_ns: about how long a window is; the run is cut into as many as fit best.
            ``window_length`` by default.

    Raises:
        UsageError: if the window has no length.
    """
    if window_ns is None:
        window_ns = window_length(record, sla)
    if window_ns <= 0:
        raise UsageError(f"a window lasts some time, not {window_ns} ns")
    count = max(1, round(record.duration_ns / window_ns))
    edges = np.round(np.arange(count + 1) * (record.duration_ns / count)).astype(np.int64)
    # A query may be intended for the very end, which no window begins with.
    cuts = [*np.searchsorted(record.intended_ns, edges[:-1]).tolist(), len(record)]
    latency = record.latency_ns
    done = np.sort(record.done_ns[np.isfinite(latency)])
    replies = np.diff(np.searchsorted(done, edges)).tolist()
    return [
        _window(
            latency[cuts[i] : cuts[i + 1]],
            record.status[cuts[i] : cuts[i + 1]],
            replies[i],
            (int(edges[i]), int(edges[i + 1])),
            sla,
        )
        for i in range(count)
    ]


def violation_seconds(windows: Iterable[RunWindow]) -> float:
    """Return for how many seconds the SLA was missed: the windows whose percentile is over it."""
    return sum((w.seconds for w in windows if w.missed), 0.0)


def window_length(record: RunRecord, sla: Sla) -> Ns:
    """Return a round length, from 0.1 s to a minute, for the windows of a run.

    It is the shortest in which enough queries arrive on average for the SLA's percentile to
    have an upper bound, and that gives at most 120 windows.
    """
    needed = max(
        queries_needed(sla.percentile) / max(record.offered_qps, 1e-9),
        to_seconds(record.duration_ns) / _MOST_WINDOWS,
    )
    return from_seconds(next((s for s in _LENGTHS_S if s >= needed), _LENGTHS_S[-1]))


def _window(
    latency: NDArray[np.float64],
    status: NDArray[np.uint8],
    replies: int,
    span: tuple[int, int],
    sla: Sla,
) -> RunWindow:
    seconds = to_seconds(span[1] - span[0])
    p50, p95, p99, tail = _percentiles(latency, (50.0, 95.0, 99.0, sla.percentile))
    return RunWindow(
        start_s=to_seconds(span[0]),
        seconds=seconds,
        offered_qps=len(latency) / seconds,
        achieved_qps=replies / seconds,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        sla_ms=tail,
        outcomes={o.name.lower(): int((status == o).sum()) for o in Outcome},
        violations=int((latency > sla.limit_ns).sum()),
        missed=tail * 1e6 > sla.limit_ns,
    )


def _percentiles(latency: NDArray[np.float64], percentiles: tuple[float, ...]) -> list[float]:
    if not len(latency):
        return [float("nan")] * len(percentiles)
    return [p.value_ms for p in estimate_percentiles(latency, percentiles)]
