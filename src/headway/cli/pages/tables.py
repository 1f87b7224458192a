"""Tables that several reports share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headway.bundle import Choice, GuardEntry
from headway.cli.pages.html import table
from headway.cli.terminal import milliseconds, size


class Judged(Protocol):
    """Something with a verdict."""

    @property
    def name(self) -> str:
        """What was judged."""
        ...

    @property
    def guard(self) -> GuardEntry:
        """The verdict."""
        ...


class Claimed(Judged, Protocol):
    """A verdict that was sought to publish something, or for information only."""

    @property
    def claim(self) -> bool:
        """Whether it was to be published."""
        ...


def figure_of(value: float | None, form: str) -> str:
    """Return the value in a format such as ``+.5f``, or "none" where there is no value."""
    return "none" if value is None else format(value, form)


def interval_of(guard: GuardEntry) -> str:
    """Return the bounds of the AUC difference."""
    low, high = guard.delta_auc_low, guard.delta_auc_high
    return f"[{figure_of(low, '+.5f')}, {figure_of(high, '+.5f')}]"


def auc_rows(steps: Sequence[Judged]) -> list[tuple[str, float, float, float]]:
    """Return name, AUC difference and its bounds of what has them, to be drawn."""
    return [
        (s.name, s.guard.delta_auc, s.guard.delta_auc_low, s.guard.delta_auc_high)
        for s in steps
        if s.guard.delta_auc is not None
        and s.guard.delta_auc_low is not None
        and s.guard.delta_auc_high is not None
    ]


def quality_table(steps: Sequence[Claimed]) -> str:
    """Return the guard's words on each composition that was judged or looked at."""
    head = (
        "composition",
        "verdict",
        "AUC",
        "delta AUC",
        "interval",
        "delta log loss",
        "predicted / observed",
        "calibration error",
    )
    return table(
        head,
        [
            (
                step.name if step.claim else f"{step.name} (for information)",
                g.verdict
                if g.rows_to_decide is None
                else f"{g.verdict} ({g.rows_to_decide:,} rows would decide)",
                figure_of(g.auc_optimized, ".4f"),
                figure_of(g.delta_auc, "+.5f"),
                interval_of(g),
                figure_of(g.delta_log_loss, "+.6f"),
                figure_of(g.calibration_optimized, ".4f"),
                figure_of(g.ece_optimized, ".4f"),
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
                figure_of(c.max_error, ".2g"),
                "yes" if c.chosen else "no",
                c.reason,
            )
            for c in choices
        ],
    )
