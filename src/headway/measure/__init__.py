"""Statistics of quality and of latency, and the search for the latency-bounded throughput."""

from headway.measure.compare import (
    AucDifference,
    MeanDifference,
    delong_paired,
    paired_bootstrap,
)
from headway.measure.quality import (
    auc,
    calibration_ratio,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
    probabilities,
)

__all__ = [
    "AucDifference",
    "MeanDifference",
    "auc",
    "calibration_ratio",
    "delong_paired",
    "expected_calibration_error",
    "log_loss",
    "log_loss_rows",
    "paired_bootstrap",
    "probabilities",
]
