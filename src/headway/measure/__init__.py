"""Statistics of quality and of latency, and the search for the latency-bounded throughput."""

from headway.measure.bootstrap import PairedBootstrap, bootstrap_pair
from headway.measure.compare import (
    AucDifference,
    MeanDifference,
    delong_paired,
    paired_bootstrap,
)
from headway.measure.early_stopping import (
    EARLY_STOPPING_CONFIDENCE,
    early_stopping_estimate,
    fewest_queries,
    most_over_limit,
)
from headway.measure.energy import (
    POWERCAP,
    EnergyMeter,
    EnergyMeters,
    EnergyUse,
    NotReadableError,
    NvmlMeter,
    RaplMeter,
    open_meters,
)
from headway.measure.histogram import RELATIVE_ERROR, LatencyHistogram
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
from headway.measure.order import order_ranks, queries_needed, queries_to_plan
from headway.measure.profile import LatencyProfile, profile_of
from headway.measure.quality import (
    auc,
    calibration_ratio,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
    normalized_entropy,
    probabilities,
)
from headway.measure.ranking import QueryRanking, rank_queries
from headway.measure.shift import CalibrationShift, calibration_shift
from headway.measure.sla import SlaVerdict, judge_sla
from headway.measure.windows import RunWindow, run_windows, violation_seconds, window_length

__all__ = [
    "EARLY_STOPPING_CONFIDENCE",
    "NEVER",
    "POWERCAP",
    "RELATIVE_ERROR",
    "STANDARD_PERCENTILES",
    "AucDifference",
    "CalibrationShift",
    "EnergyMeter",
    "EnergyMeters",
    "EnergyUse",
    "Evaluate",
    "LatencyHistogram",
    "LatencyProfile",
    "LatencySummary",
    "LbtPoint",
    "LbtResult",
    "LbtSettings",
    "MeanDifference",
    "NotReadableError",
    "NvmlMeter",
    "Outcome",
    "PairedBootstrap",
    "Percentile",
    "QueryRanking",
    "RaplMeter",
    "RunRecord",
    "RunWindow",
    "SlaVerdict",
    "auc",
    "bootstrap_pair",
    "calibration_ratio",
    "calibration_shift",
    "delong_paired",
    "early_stopping_estimate",
    "estimate_percentiles",
    "expected_calibration_error",
    "fewest_queries",
    "find_lbt",
    "judge_sla",
    "latency_histogram",
    "log_loss",
    "log_loss_rows",
    "most_over_limit",
    "normalized_entropy",
    "open_meters",
    "order_ranks",
    "paired_bootstrap",
    "probabilities",
    "profile_of",
    "queries_needed",
    "queries_to_plan",
    "rank_queries",
    "run_windows",
    "summarize_latency",
    "violation_seconds",
    "window_length",
]
