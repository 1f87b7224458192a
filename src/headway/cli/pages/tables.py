"""Tables that several reports share."""

from __future__ import annotations

from collections.abc import Sequence

from headway.bundle import Choice
from headway.cli.pages.html import table
from headway.cli.results import GuardStep
from headway.cli.terminal import milliseconds, size


def quality_table(steps: Sequence[GuardStep]) -> str:
    """Return the guard's words on each composition that was judged or looked at."""
    head = (
        "composition",
        "verdict",
        "AUC",
        "delta AUC",
        "interval",
        "delta log loss",
        "predicted / observed",
    )
    return table(
        head,
        [
            (
                step.name if step.claim else f"{step.name} (for information)",
                g.verdict
                if g.rows_to_decide is None
                else f"{g.verdict} ({g.rows_to_decide:,} rows would decide)",
                f"{g.auc_optimized:.4f}",
                f"{g.delta_auc:+.5f}",
                f"[{g.delta_auc_low:+.5f}, {g.delta_auc_high:+.5f}]",
                f"{g.delta_log_loss:+.6f}",
                f"{g.calibration_optimized:.4f}",
            )
            for step in steps
            for g in [step.guard]
        ],
    )


def choice_table(choices: Sequence[Choice]) -> str:
    """Return the compositions tried, with what they cost and why they were taken or not."""
    head = ("composition", "latency, N = 256", "size", "largest error", "taken", "why")
    return table(
        head,
        [
            (
                c.name,
                milliseconds(c.latency_us / 1000),
                size(c.size_bytes),
                f"{c.max_error:.2g}",
                "yes" if c.chosen else "no",
                c.reason,
            )
            for c in choices
        ],
    )
