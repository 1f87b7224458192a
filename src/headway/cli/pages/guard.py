"""The guard's figures on the composition taken, for report and terminal."""

from __future__ import annotations

from headway.bundle import GuardEntry
from headway.cli.pages.html import table
from headway.cli.pages.tables import figure_of

Row = tuple[str, str, str, str, str]
HEAD = ("", "original", "optimized", "loss at most", "margin")


def guard_rows(guard: GuardEntry) -> list[Row]:
    """Return name, original, optimised, proven bound of the loss, and margin of each figure."""
    auc, ndcg = _negative(guard.delta_auc_low), _negative(guard.delta_ndcg_low)
    rows = [
        _row("AUC", guard.auc_baseline, guard.auc_optimized, auc, guard.margin_auc),
        (
            "delta log loss",
            "",
            figure_of(guard.delta_log_loss, "+.6f"),
            figure_of(guard.delta_log_loss_high, "+.5f"),
            f"{guard.margin_log_loss:g}",
        ),
        _row(
            "normalised entropy",
            guard.normalized_entropy_baseline,
            guard.normalized_entropy_optimized,
        ),
        _row(
            "predicted / observed",
            guard.calibration_baseline,
            guard.calibration_optimized,
            guard.calibration_move_high,
            guard.margin_calibration,
        ),
        _row(
            "calibration error",
            guard.ece_baseline,
            guard.ece_optimized,
            guard.ece_move_high,
            guard.margin_ece,
        ),
        _row("NDCG@10", guard.ndcg_baseline, guard.ndcg_optimized, ndcg, guard.margin_ndcg),
        _row("hit rate@10", guard.hit_rate_baseline, guard.hit_rate_optimized),
    ]
    return [row for row in rows if row[1] or row[2] != "none"]


def slice_text(guard: GuardEntry) -> str:
    """Return the worst slice in words, or an empty string where none was looked at."""
    if guard.worst_slice is None:
        return ""
    low, high = (figure_of(x, "+.5f") for x in (guard.worst_slice_low, guard.worst_slice_high))
    return (
        f"{guard.worst_slice}: delta AUC {figure_of(guard.worst_slice_delta_auc, '+.5f')} "
        f"[{low}, {high}] on {guard.worst_slice_rows or 0:,} rows, "
        f"the worst of {guard.slices} slices"
    )


def guard_table(guard: GuardEntry) -> str:
    """Return the figures as a table of a page."""
    return table(HEAD, guard_rows(guard))


def _row(
    name: str,
    original: float | None,
    optimized: float | None,
    bound: float | None = None,
    margin: float | None = None,
) -> Row:
    return (
        name,
        "" if original is None else f"{original:.4f}",
        figure_of(optimized, ".4f"),
        "" if bound is None else f"{bound:+.5f}",
        "" if margin is None else f"{margin:g}",
    )


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
