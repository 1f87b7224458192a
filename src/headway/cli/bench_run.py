"""What ``headway bench`` tells of one run, besides its percentiles."""

from __future__ import annotations

from urllib.parse import urlsplit

from headway.cli.results import BenchRun
from headway.cli.terminal import milliseconds, number
from headway.core import Sla, to_seconds
from headway.measure import (
    EnergyMeters,
    EnergyUse,
    RunRecord,
    early_stopping_estimate,
    judge_sla,
    most_over_limit,
    open_meters,
    run_windows,
    summarize_latency,
    violation_seconds,
)

_HERE = {"localhost", "127.0.0.1", "::1"}


def meters_of(url: str) -> EnergyMeters:
    """Return the energy meters of the server's machine, where that is this one."""
    if urlsplit(url).hostname in _HERE:
        return open_meters()
    return EnergyMeters({}, {"cpu": f"{url} may be another machine; run the bench on that one"})


def run_of(record: RunRecord, sla: Sla, energy: EnergyUse) -> BenchRun:
    """Return one run looked at closely.

    Args:
        record: the run, its warm-up cut off.
        sla: the target.
        energy: what was used meanwhile.
    """
    verdict, summary = judge_sla(record, sla), summarize_latency(record)
    windows = run_windows(record, sla)
    return BenchRun(
        offered_qps=summary.offered_qps,
        achieved_qps=summary.achieved_qps,
        seconds=to_seconds(record.duration_ns),
        queries=verdict.queries,
        violations=verdict.violations,
        lag_p99_ms=next(p.value_ms for p in summary.lag if p.percentile == 99.0),
        fault=verdict.fault,
        early_stopping=verdict.early_stopping,
        allowed_violations=most_over_limit(verdict.queries, sla.percentile),
        queries_to_prove=verdict.queries_to_prove,
        early_stopping_ms=early_stopping_estimate(record.latency_ns, sla.percentile),
        windows=windows,
        violation_seconds=violation_seconds(windows),
        energy=energy,
        watts=energy.watts,
        queries_per_joule=energy.queries_per_joule(summary.achieved_qps),
    )


def run_notes(run: BenchRun, sla: Sla, warmup_s: float) -> list[str]:
    """Return what is to be said of a run, a sentence each."""
    first = (
        f"the run at {number(run.offered_qps)} queries/s: {number(run.achieved_qps)} answered per "
        f"second, the first {warmup_s:g} s cut off as warm-up, generator lag p99 "
        f"{milliseconds(run.lag_p99_ms)}"
    )
    return [first, _violations(run, sla), _early_stopping(run, sla), energy_note(run)]


def energy_note(run: BenchRun) -> str:
    """Return joules, watts and queries per joule, or why there are none."""
    use = run.energy
    reasons = "; ".join(f"{name}: {reason}" for name, reason in use.unread.items())
    if run.watts is None:
        return f"energy: not readable ({reasons})"
    parts = ", ".join(f"{name} {number(joules)} J" for name, joules in use.joules.items())
    told = f"energy: {number(sum(use.joules.values()))} J ({parts}), {number(run.watts)} W"
    if run.queries_per_joule is not None:
        told += f", {number(run.queries_per_joule)} queries per joule"
    return told + (f"; not readable: {reasons}" if reasons else "")


def _violations(run: BenchRun, sla: Sla) -> str:
    length = run.windows[0].seconds
    return (
        f"in violation of {sla} for {run.violation_seconds:.3g} s of {run.seconds:.3g} s, seen in "
        f"windows of {length:.3g} s; {run.violations:,} of {run.queries:,} queries over the limit"
    )


def _early_stopping(run: BenchRun, sla: Sla) -> str:
    name = "early stopping (MLPerf, confidence 99 %)"
    if run.early_stopping:
        proven = f"passes, and would with up to {run.allowed_violations:,} queries over the limit"
        if run.allowed_violations < 1:  # too few queries to say more than that
            return f"{name}: {proven}"
        bound = milliseconds(run.early_stopping_ms)
        return f"{name}: {proven}; p{sla.percentile:g} is at most {bound}"
    if run.fault:
        return f"{name}: does not pass, as the run proves nothing: {run.fault}"
    more = run.queries_to_prove - run.queries
    return f"{name}: does not pass; {more:,} more queries, none over the limit, would prove it"
