"""Statistics of quality and of latency, and the search for the latency-bounded throughput."""

from headway.measure.compare import (
    AucDifference,
    MeanDifference,
    delong_paired,
    paired_bootstrap,
)
from headway.measure.latency import (
    NEVER,
    STANDARD_PERCENTILES,
    LatencySummary,
    Outcome,
    Percentile,
    RunRecord,
    estimate_percentiles,
    latency_histogram,
    summarize_latency,
)
from headway.measure.lbt import Evaluate, LbtPoint, LbtResult, LbtSettings, find_lbt
from headway.measure.order import order_ranks, queries_needed
from headway.measure.profile import LatencyProfile, profile_of
from headway.measure.quality import (
    auc,
    calibration_ratio,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
    probabilities,
)
from headway.measure.sla import SlaVerdict, judge_sla

__all__ = [
    "NEVER",
    "STANDARD_PERCENTILES",
    "AucDifference",
    "Evaluate",
    "LatencyProfile",
    "LatencySummary",
    "LbtPoint",
    "LbtResult",
    "LbtSettings",
    "MeanDifference",
    "Outcome",
    "Percentile",
    "RunRecord",
    "SlaVerdict",
    "auc",
    "calibration_ratio",
    "delong_paired",
    "estimate_percentiles",
    "expected_calibration_error",
    "find_lbt",
    "judge_sla",
    "latency_histogram",
    "log_loss",
    "log_loss_rows",
    "order_ranks",
    "paired_bootstrap",
    "probabilities",
    "profile_of",
    "queries_needed",
    "summarize_latency",
]
