"""Whether a run met its SLA, and whether the run itself can be believed."""

from __future__ import annotations

import msgspec

from headway.core import Sla
from headway.measure.early_stopping import fewest_queries, most_over_limit
from headway.measure.latency import RunRecord, estimate_percentiles
from headway.measure.order import queries_needed

_LAG_SHARE = 0.2


class SlaVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one run.

    Attributes:
        met: the percentile is within the limit and the run has no fault.
        value_ms: the percentile of latency; infinite when too many queries went unanswered.
        low_ms: lower end of its interval.
        high_ms: upper end of its interval; infinite with too few queries.
        violations: queries over the limit, the unanswered among them.
        queries: how many were judged.
        enough: there were enough queries for the percentile to have an upper bound.
        fault: why the run proves nothing (too short, generator late or ended early), or "".
        early_stopping: the stricter test of MLPerf's load generator passes too: so few
            violations prove the percentile with a confidence of 0.99. ``met`` does without it.
        queries_to_prove: with how many queries in all, and no further violation, it passes.
    """

    met: bool
    value_ms: float
    low_ms: float
    high_ms: float
    violations: int
    queries: int
    enough: bool
    fault: str = ""
    early_stopping: bool = False
    queries_to_prove: int = 0


def judge_sla(record: RunRecord, sla: Sla, confidence: float = 0.95) -> SlaVerdict:
    """Return whether the run met the SLA; a run with a fault never does.

    Raises:
        DataError: if the run holds no query.
    """
    latency = record.latency_ns
    (found,) = estimate_percentiles(latency, (sla.percentile,), confidence)
    fault = _fault(record, sla, confidence)
    violations = int((latency > sla.limit_ns).sum())
    return SlaVerdict(
        met=found.value_ms * 1e6 <= sla.limit_ns and not fault,
        value_ms=found.value_ms,
        low_ms=found.low_ms,
        high_ms=found.high_ms,
        violations=violations,
        queries=len(record),
        enough=len(record) >= queries_needed(sla.percentile, confidence),
        fault=fault,
        early_stopping=not fault and violations <= most_over_limit(len(record), sla.percentile),
        queries_to_prove=fewest_queries(violations, sla.percentile),
    )


def _fault(record: RunRecord, sla: Sla, confidence: float) -> str:
    unsent = int((record.sent_ns < 0).sum())
    if unsent:
        return f"the run ended early: {unsent} of {len(record)} queries were never sent"
    (lag,) = estimate_percentiles(record.lag_ns, (sla.percentile,), confidence)
    if lag.value_ms * 1e6 > _LAG_SHARE * sla.limit_ns:
        return (
            f"the load generator was late: p{sla.percentile:g} of its lag is {lag.value_ms:.2f} ms, "
            f"more than {_LAG_SHARE:.0%} of the limit"
        )
    needed = queries_needed(sla.percentile, confidence)
    if len(record) < needed:
        return f"too short: {len(record)} queries, p{sla.percentile:g} needs {needed}"
    return ""
