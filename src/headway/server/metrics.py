"""Counts what happens, in plain integers; turned into Prometheus text when asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from headway.core import Ns, to_seconds
from headway.scheduler import Completion, Load, Outcome, Reason
from headway.server.executor import Standing

LATENCY_BOUNDS_US = (
    *(250, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 7_500, 10_000, 15_000, 20_000),
    *(25_000, 35_000, 50_000, 75_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000),
)
BATCH_BOUNDS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096)
OUTCOMES = (*Outcome, "refused", "invalid")


class _Latency:
    """A histogram of durations."""

    __slots__ = ("counts", "total_ns")

    _bounds = tuple(us * 1000 for us in LATENCY_BOUNDS_US)

    def __init__(self) -> None:
        self.counts = [0] * (len(self._bounds) + 1)
        self.total_ns = 0

    def observe(self, duration: int) -> None:
        """Count one duration in nanoseconds."""
        self.counts[bisect_left(self._bounds, duration)] += 1
        self.total_ns += duration


class ModelMetrics:
    """What happened to the queries of one model; written in the event loop only.

    Args:
        name: the model's name.
        version: the model's version.
        standing: tells plan and load.
        batch_sizes: candidates in a batch to number of such batches; grown by the executor.
        refused: queries turned away by the scheduler, by reason; counted by the executor.
    """

    def __init__(
        self,
        name: str,
        version: str,
        standing: Callable[[], Standing],
        batch_sizes: dict[int, int],
        refused: dict[Reason, int],
    ) -> None:
        self.name = name
        self.version = version
        self.standing = standing
        self.batch_sizes = batch_sizes
        self.refused = refused
        self.degraded = 0
        self.outcomes = dict.fromkeys([str(outcome) for outcome in OUTCOMES], 0)
        self.candidates = 0
        self.latency = _Latency()
        self.queue_ns = 0

    def scored(self, completion: Completion, size: int, now: Ns) -> None:
        """Take in a query of ``size`` candidates that got its scores."""
        self.outcomes[Outcome.DONE] += 1
        self.degraded += completion.lighter
        if completion.started is not None:
            self.candidates += size
            self.queue_ns += completion.started - completion.arrived
            self.latency.observe(now - completion.arrived)

    def ended(self, outcome: Outcome) -> None:
        """Take in an accepted query that got no scores."""
        self.outcomes[outcome] += 1

    def turned_away(self, *, invalid: bool) -> None:
        """Count a request that never became an accepted query."""
        self.outcomes["invalid" if invalid else "refused"] += 1

    def failures(self) -> int:
        """Return how many requests got no scores."""
        return sum(self.outcomes.values()) - self.outcomes[Outcome.DONE]

    def batches(self) -> int:
        """Return how many batches were computed."""
        return sum(self.batch_sizes.copy().values())


_GAUGES: tuple[tuple[str, str, Callable[[Load], int]], ...] = (
    ("headway_queue_queries", "Queries waiting.", lambda x: x.waiting_queries),
    ("headway_queue_candidates", "Candidates waiting.", lambda x: x.waiting_candidates),
    ("headway_running_candidates", "Candidates at work.", lambda x: x.running_candidates),
    ("headway_in_flight_queries", "Queries not ended.", lambda x: x.open_queries),
)
_PLAN_GAUGES: tuple[tuple[str, str, Callable[[Standing], float | None]], ...] = (
    ("headway_workers", "Workers of the plan in force.", lambda s: s.plan.workers),
    ("headway_split_size_candidates", "Most candidates in a chunk.", lambda s: s.split_size),
    ("headway_predicted_wait_seconds", "Until a new query would begin.", lambda s: s.wait_s),
    ("headway_arrival_candidates_per_second", "Arrivals, smoothed.", lambda s: s.arrival_rate),
)
_ALIASES: tuple[tuple[str, str, Callable[[ModelMetrics], int]], ...] = (
    ("request_success", "Queries with scores.", lambda m: m.outcomes[Outcome.DONE]),
    ("request_failure", "Requests without scores.", lambda m: m.failures()),
    ("count", "Candidates that got scores.", lambda m: m.candidates),
    ("exec_count", "Batches computed.", lambda m: m.batches()),
    ("request_duration_us", "Sum of latencies.", lambda m: m.latency.total_ns // 1000),
    ("queue_duration_us", "Sum of queue times.", lambda m: m.queue_ns // 1000),
    ("compute_infer_duration_us", "Worker time.", lambda m: m.standing().load.busy_ns // 1000),
)


def render(models: Iterable[ModelMetrics]) -> bytes:
    """Return the present state as Prometheus text, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(tuple(models)))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, models: tuple[ModelMetrics, ...]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        yield self._queries()
        yield self._candidates()
        yield self._latency()
        yield self._batch_sizes()
        yield self._degraded()
        yield self._refused()
        yield from self._standings()
        yield from self._triton()

    def _queries(self) -> Metric:
        family = CounterMetricFamily(
            "headway_queries", "Queries by how they ended.", labels=["model", "outcome"]
        )
        for m in self._models:
            for outcome, count in m.outcomes.items():
                family.add_metric([m.name, outcome], count)
        return family

    def _candidates(self) -> Metric:
        family = CounterMetricFamily(
            "headway_candidates", "Candidates that got scores.", labels=["model"]
        )
        for m in self._models:
            family.add_metric([m.name], m.candidates)
        return family

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(
            "headway_latency_seconds",
            "Time from a whole request to its scores.",
            labels=["model"],
        )
        bounds = [str(us / 1e6) for us in LATENCY_BOUNDS_US]
        for m in self._models:
            buckets = _buckets(bounds, m.latency.counts)
            family.add_metric([m.name], buckets, to_seconds(m.latency.total_ns))
        return family

    def _batch_sizes(self) -> Metric:
        family = HistogramMetricFamily(
            "headway_batch_candidates", "Candidates scored in one batch.", labels=["model"]
        )
        for m in self._models:
            sizes = m.batch_sizes.copy()
            counts = [0] * (len(BATCH_BOUNDS) + 1)
            for size, count in sizes.items():
                counts[bisect_left(BATCH_BOUNDS, size)] += count
            total = sum(size * count for size, count in sizes.items())
            family.add_metric([m.name], _buckets([str(b) for b in BATCH_BOUNDS], counts), total)
        return family

    def _degraded(self) -> Metric:
        family = CounterMetricFamily(
            "headway_degraded_queries", "Answered by the lighter bundle.", labels=["model"]
        )
        for m in self._models:
            family.add_metric([m.name], m.degraded)
        return family

    def _refused(self) -> Metric:
        family = CounterMetricFamily(
            "headway_refused_queries", "Queries turned away, by why.", labels=["model", "reason"]
        )
        for m in self._models:
            for reason, count in m.refused.items():
                family.add_metric([m.name, reason], count)
        return family

    def _standings(self) -> Iterator[Metric]:
        standings = [(m.name, m.standing()) for m in self._models]
        for name, text, pick in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=["model"])
            for model, standing in standings:
                family.add_metric([model], pick(standing.load))
            yield family
        busy = CounterMetricFamily(
            "headway_worker_busy_seconds", "Worker time that scoring took.", labels=["model"]
        )
        for model, standing in standings:
            busy.add_metric([model], to_seconds(standing.load.busy_ns))
        yield busy
        for name, text, choose in _PLAN_GAUGES:
            family = GaugeMetricFamily(name, text, labels=["model"])
            for model, standing in standings:
                value = choose(standing)
                # What nobody knows is left out, not 0.
                if value is not None:
                    family.add_metric([model], value)
            yield family
        family = GaugeMetricFamily(
            "headway_policy", "1 for the policy in force.", labels=["model", "policy"]
        )
        for model, standing in standings:
            family.add_metric([model, standing.plan.policy], 1)
        yield family

    def _triton(self) -> Iterator[Metric]:
        for name, text, pick in _ALIASES:
            # Not a counter: the client library would add _total to a name that must stay.
            family = Metric(f"nv_inference_{name}", f"Alias: {text}", "unknown")
            for m in self._models:
                labels = {"model": m.name, "version": m.version}
                family.add_sample(family.name, labels, pick(m))
            yield family


def _buckets(bounds: list[str], counts: list[int]) -> list[tuple[str, float]]:
    return list(zip([*bounds, "+Inf"], [float(n) for n in accumulate(counts)], strict=True))
