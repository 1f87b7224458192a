"""What a simulated fleet leaves behind: windows in time, totals, what it cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from headway.core import Sla, to_seconds
from headway.measure import LatencyHistogram, queries_needed

_LENGTHS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
_MOST_WINDOWS = 120


class FleetWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of a simulated run; queries belong to the window in which they arrived.

    Attributes:
        start_s: seconds from the start.
        seconds: length.
        offered_qps: queries per second that arrived.
        p50_ms, p95_ms, p99_ms, sla_ms: percentiles of latency, the last that of the SLA;
            infinite where answers are missing, NaN without queries.
        violations: queries over the SLA's limit, the unanswered among them.
        refused: at the door, or because no machine was on.
        failed: lost with a machine.
        machines: on average, that took or still worked on queries.
        utilisation: of their workers.
        missed: the SLA's percentile is over its limit.
    """

    start_s: float
    seconds: float
    offered_qps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    sla_ms: float
    violations: int
    refused: int
    failed: int
    machines: float
    utilisation: float
    missed: bool


class FleetRun(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated fleet in numbers; every one of them is simulated, none measured.

    Attributes:
        queries: that arrived.
        refused: at the door, or because no machine was on.
        late: not answered by their deadline.
        failed: lost with a machine, and not saved by another.
        retried: lost with a machine and sent to another.
        lightened: answered by the lighter bundle.
        latency: of all queries; what was not answered counts as infinite.
        windows: the run over time.
        violations: queries over the SLA's limit, the unanswered among them.
        violation_s: seconds of windows that missed the SLA.
        met: the SLA holds for the run as a whole.
        utilisation: of the workers of machines that were on.
        machine_hours: from a machine's order to its end, start-up and repair included.
        most_machines: at the same time, ordered ones included.
        cost: of those hours, in the money of the prices.
        joules: of those hours by the watts of the machines; 0.0 where none are given.
        seconds: length of the schedule.
    """

    queries: int
    refused: int
    late: int
    failed: int
    retried: int
    lightened: int
    latency: LatencyHistogram
    windows: tuple[FleetWindow, ...]
    violations: int
    violation_s: float
    met: bool
    utilisation: float
    machine_hours: float
    most_machines: int
    cost: float
    joules: float
    seconds: float


class OpenWindow:
    """A window while queries of it are not all ended.

    Attributes:
        start_ns: of the window.
        latency: of its queries so far.
        queries: that arrived.
        pending: of them not ended.
        violations, refused, failed, late: of them.
        machines, utilisation: set when the window is over in time.
    """

    __slots__ = (
        "failed",
        "late",
        "latency",
        "machines",
        "pending",
        "queries",
        "refused",
        "start_ns",
        "utilisation",
        "violations",
    )

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.latency = LatencyHistogram()
        self.queries = self.pending = self.violations = 0
        self.refused = self.failed = self.late = 0
        self.machines = self.utilisation = 0.0


class Series:
    """Windows one after the other; those that are over and ended are kept as figures only.

    Attributes:
        now: the window that arrivals belong to.
        length_ns: of a window.
        latency: of all queries of closed windows.
        violations, refused, failed, late: of those.
    """

    def __init__(self, sla: Sla, length_ns: int) -> None:
        self.now = OpenWindow(0)
        self.length_ns = length_ns
        self.latency = LatencyHistogram()
        self.violations = self.refused = self.failed = self.late = 0
        self._sla = sla
        self._open: deque[OpenWindow] = deque()
        self._closed: list[FleetWindow] = []

    def turn(self, end_ns: int, machines: float, utilisation: float) -> None:
        """End the present window at a moment and begin the next one."""
        window = self.now
        window.machines, window.utilisation = machines, utilisation
        self._open.append(window)
        self.now = OpenWindow(end_ns)
        while self._open and not self._open[0].pending:
            closed = self._open.popleft()
            following = self._open[0] if self._open else self.now
            self._close(closed, following.start_ns)

    def end(self) -> tuple[FleetWindow, ...]:
        """Return all windows, once the last one was ended and no query is left."""
        while self._open:
            closed = self._open.popleft()
            following = self._open[0] if self._open else self.now
            self._close(closed, following.start_ns)
        return tuple(self._closed)

    def _close(self, window: OpenWindow, end_ns: int) -> None:
        seconds = to_seconds(end_ns - window.start_ns)
        p50, p95, p99, tail = percentiles_ms(window.latency, (50.0, 95.0, 99.0), self._sla)
        self.latency.merge(window.latency)
        for name in ("violations", "refused", "failed", "late"):
            setattr(self, name, getattr(self, name) + getattr(window, name))
        self._closed.append(
            FleetWindow(
                start_s=to_seconds(window.start_ns),
                seconds=seconds,
                offered_qps=window.queries / seconds,
                p50_ms=p50,
                p95_ms=p95,
                p99_ms=p99,
                sla_ms=tail,
                violations=window.violations,
                refused=window.refused,
                failed=window.failed,
                machines=window.machines,
                utilisation=window.utilisation,
                missed=tail * 1e6 > self._sla.limit_ns,
            )
        )


def percentiles_ms(
    latency: LatencyHistogram, percentiles: Sequence[float], sla: Sla
) -> list[float]:
    """Return percentiles in milliseconds and the SLA's behind them; NaN without queries."""
    wanted = (*percentiles, sla.percentile)
    if not len(latency):
        return [float("nan")] * len(wanted)
    return [p.value_ms for p in latency.percentiles(wanted)]


def series_length_s(duration_s: float, rate_qps: float, sla: Sla) -> float:
    """Return a round length for windows: at most 120, each with enough queries on average.

    Args:
        duration_s: of the run.
        rate_qps: mean rate.
        sla: whose percentile a window should bound.
    """
    needed = max(queries_needed(sla.percentile) / rate_qps, duration_s / _MOST_WINDOWS)
    fitting: Iterable[float] = (s for s in _LENGTHS_S if s >= needed)
    return min(duration_s, next(iter(fitting), needed))
