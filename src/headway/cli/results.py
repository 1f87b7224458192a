"""What the demo found, in the form it is printed, drawn and given to machines."""

from __future__ import annotations

import msgspec

from headway.bundle import Choice, GuardEntry
from headway.measure import EnergyUse, RunWindow

Percentiles = dict[str, float]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two served models.

    Attributes:
        auc: on the rows that judge.
        latency_ms: query size to ``p50``, ``p95``, ``p99`` over HTTP on an idle server.
        lbt_qps, lbt_cps: latency-bounded throughput in queries and candidates per second.
        size_bytes: on disk.
    """

    auc: float
    latency_ms: dict[str, Percentiles]
    lbt_qps: float
    lbt_cps: float
    size_bytes: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measured rate: latencies in ms from intended arrival; ``met`` the SLA or not."""

    rate_qps: float
    p50_ms: float
    tail_ms: float
    queries: int
    met: bool


class Harness(msgspec.Struct, frozen=True, kw_only=True):
    """What the load generator itself costs, measured against a target that answers at once."""

    rate_qps: float
    null_p50_ms: float
    null_p99_ms: float
    lag_p99_ms: float


class GuardStep(msgspec.Struct, frozen=True, kw_only=True):
    """The guard's word on one composition; ``claim`` if it was judged to be published."""

    name: str
    guard: GuardEntry
    claim: bool


class BenchRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of ``headway bench`` looked at closely: that at the given rate, or at the LBT.

    Attributes:
        offered_qps, achieved_qps: queries per second of the schedule, and answered.
        seconds: length of the schedule, without warm-up.
        queries, violations: how many there were, and over the SLA's limit or not answered.
        lag_p99_ms: p99 of the load generator's own delay.
        fault: why the run proves nothing, so that it cannot meet the SLA, or "".
        early_stopping: the test of MLPerf's load generator passes too.
        allowed_violations: with how many violations it would still pass; -1 if with none.
        queries_to_prove: with how many queries, and no further violation, it would pass.
        early_stopping_ms: the SLA's percentile that the run proves, an upper bound.
        windows: the run over time.
        violation_seconds: length of the windows whose percentile missed the SLA.
        energy: what the machine used from before the warm-up until the last reply.
        watts, queries_per_joule: mean power, and answered queries per joule; None if unknown.
    """

    offered_qps: float
    achieved_qps: float
    seconds: float
    queries: int
    violations: int
    lag_p99_ms: float
    fault: str
    early_stopping: bool
    allowed_violations: int
    queries_to_prove: int
    early_stopping_ms: float
    windows: list[RunWindow]
    violation_seconds: float
    energy: EnergyUse
    watts: float | None
    queries_per_joule: float | None


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``headway bench`` found.

    Attributes:
        url, model: what was measured.
        sla: the target.
        met: the SLA held at the given rate, or at some rate.
        lbt_qps, lbt_cps: latency-bounded throughput; None if one rate was measured.
        confirmed: an independent run at the LBT passed too.
        note: what limits the answer.
        warmup_s: so much of the start of every run is not counted.
        harness: the load generator's own cost.
        points: every run.
        run: one run looked at closely; None if no rate held.
    """

    url: str
    model: str
    sla: str
    met: bool
    lbt_qps: float | None = None
    lbt_cps: float | None = None
    confirmed: bool = False
    note: str = ""
    warmup_s: float
    harness: Harness
    points: list[Point]
    run: BenchRun | None = None


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ``headway demo`` found; ``ratio`` is optimized over baseline.

    ``lbt_ratio_range`` holds the LBT ratio if each LBT lies between the rate that was confirmed
    and the lowest rate above it that failed.
    """

    machine: str
    date: str
    seconds: float
    sla: str
    best_auc: float
    baseline: Side
    optimized: Side
    ratio: dict[str, float | dict[str, Percentiles]]
    lbt_ratio_range: tuple[float, float]
    guard: GuardEntry
    steps: list[GuardStep]
    choices: list[Choice]
    composition: str
    torch_in_server: bool
    harness: Harness
    points: dict[str, list[Point]]
    notes: list[str]
    files: dict[str, str]


def ratios(baseline: Side, optimized: Side) -> dict[str, float | dict[str, Percentiles]]:
    """Return optimized over baseline for every figure; latency by size and percentile."""
    return {
        "size_bytes": optimized.size_bytes / baseline.size_bytes,
        "lbt_qps": _over(optimized.lbt_qps, baseline.lbt_qps),
        "lbt_cps": _over(optimized.lbt_cps, baseline.lbt_cps),
        "latency_ms": {
            size: {
                name: _over(optimized.latency_ms[size][name], value)
                for name, value in percentiles.items()
            }
            for size, percentiles in baseline.latency_ms.items()
        },
    }


def ratio_range(sides: dict[str, Side], points: dict[str, list[Point]]) -> tuple[float, float]:
    """Return the least and the largest LBT ratio that both searches leave possible."""
    base, best = sides["baseline"].lbt_qps, sides["optimized"].lbt_qps
    return (
        _over(best, _ceiling(base, points["baseline"])),
        _over(_ceiling(best, points["optimized"]), base),
    )


def _ceiling(lbt_qps: float, points: list[Point]) -> float:
    """Return the lowest rate above the LBT that failed, or the LBT if none was tried."""
    failed = [p.rate_qps for p in points if not p.met and p.rate_qps > lbt_qps]
    return min(failed, default=lbt_qps)


def _over(a: float, b: float) -> float:
    return a / b if b else float("nan")
