"""The guard: is the optimised model, for all the data can tell, no worse than the original?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headway.bundle import GuardEntry, Verdict
from headway.compress.guard_criteria import rows_to_decide
from headway.compress.guard_evidence import Evidence, Slice, evidence_of_tasks
from headway.compress.guard_findings import Findings, gather, one_model
from headway.compress.guard_settings import GuardSettings
from headway.compress.guard_slices import vetoes
from headway.core import UsageError
from headway.measure import auc

__all__ = ["Evidence", "GuardSettings", "Slice", "evidence_of_tasks", "judge", "worst"]

_FEWEST_ROWS = 100
_FEWEST_OF_A_CLASS = 20
_ORDER: dict[Verdict, int] = {"fail": 0, "not proven": 1, "pass": 2}


def judge(
    evidence: Evidence,
    settings: GuardSettings,
    rng: np.random.Generator,
    *,
    looks: int = 1,
    proven_equal: bool = False,
) -> GuardEntry:
    """Say whether the optimised model is no worse than the original by more than the margins.

    Non-inferiority on paired rows, by queries where rows belong to some. Bounded are the loss
    of AUC (the outer of DeLong's interval, the bootstrap's percentiles and its normal one), the
    rise of log loss (bootstrap), the loss of NDCG@10 where enough queries hold both classes,
    and how far predictions moved away from observed rates, in all and over 20 bins. Where a
    loss may sit in few rows or queries, enough of those are needed, see
    ``guard_criteria.Criterion``.

    - Pass: every bound lies within its margin. A model that is truly beyond one margin has to
      get past that very bound, whatever the others say, so passing falsely is no more likely
      than the error of a single bound. This is an intersection-union test (Berger,
      "Multiparameter hypothesis testing and acceptance sampling", Technometrics 1982): the
      criteria need no correction for each other, and each more makes the guard stricter.
    - Fail: one loss is proven to exceed its margin, or a slice is proven to have lost more than
      slices may, or outputs are not finite or all the same. Slices are a veto, not part of the
      proof: their bounds share the error (Bonferroni), and a slice too small to tell blocks
      nothing. Having several ways to fail makes a false alarm likelier, never a false pass.
    - Not proven: otherwise, with the number of rows that would decide, or because too many of
      the rows stand among the training rows.

    Candidates judged one after another on the same rows are another matter: any of them may
    pass by luck, so they share the error allowed (Bonferroni over ``looks``).

    Args:
        evidence: outputs on rows that chose nothing.
        settings: margins and confidence.
        rng: source of the bootstrap.
        looks: how many candidates are judged on these rows in all.
        proven_equal: the two were shown to compute the same by other means than these rows, so
            no loss can hide; counts only while these rows, too, differ by no more than
            float32 rounding.

    Raises:
        DataError: if a class is missing, labels are not 0 and 1, or the baseline's outputs are
            not finite or all the same.
        UsageError: if ``looks`` is below 1.
    """
    if looks < 1:
        raise UsageError(f"a verdict is at least the first look at the rows, not look {looks}")
    evidence.check()
    confidence = 1 - (1 - settings.confidence) / looks
    said: dict[str, Any] = {
        "confidence": confidence,
        "margin_auc": settings.margin_auc,
        "margin_log_loss": settings.margin_log_loss,
        "margin_slice": settings.margin_slice,
        "shared_rows": evidence.shared_rows,
        "looks": looks,
        "rows": len(evidence.labels),
        "task": evidence.task,
    }
    if not np.isfinite(evidence.optimized).all():
        return _diverged(evidence, said)
    found = gather(evidence, settings, confidence, rng, proven_equal=proven_equal)
    verdict, reason = _verdict(found, evidence, settings)
    if found.note:
        reason = f"{reason}; {found.note}"
    wanted = _rows_to_decide(found, settings) if verdict == "not proven" else None
    return GuardEntry(
        verdict=verdict,
        reason=reason,
        rows_to_decide=wanted,
        **found.figures,
        **said,
    )


def worst(entries: Sequence[GuardEntry]) -> GuardEntry:
    """Return the least favourable verdict: a model passes only if all its tasks do."""

    def favour(entry: GuardEntry) -> tuple[int, float]:
        low = entry.delta_auc_low
        return _ORDER[entry.verdict], -np.inf if low is None else low

    return min(entries, key=favour)


def _verdict(found: Findings, evidence: Evidence, settings: GuardSettings) -> tuple[Verdict, str]:
    if found.rows < _FEWEST_ROWS or found.rarer < _FEWEST_OF_A_CLASS:
        return "not proven", (
            f"{found.rows} rows with {found.rarer} of the rarer class are too few to judge by; "
            f"at least {_FEWEST_ROWS} with {_FEWEST_OF_A_CLASS} are needed"
        )
    if (fault := _fault(found, evidence, settings)) is not None:
        return "fail", fault
    shared = evidence.shared_rows
    if shared is not None and not shared <= settings.max_shared_rows:
        return "not proven", (
            f"{shared:.1%} of the judging rows stand among the training rows too, feature for "
            f"feature, more than {settings.max_shared_rows:.1%}; split the data without copies, "
            "or raise max_shared_rows if unlike impressions look the same"
        )
    doubts = [c.doubt() for c in found.criteria if not c.kept]
    if doubts:
        return "not proven", doubts[0]
    kept = [f"{c.fell} by at most {max(0.0, c.high):.5f}" for c in found.criteria]
    return "pass", " and ".join([", ".join(kept[:-1]), kept[-1]])


def _fault(found: Findings, evidence: Evidence, settings: GuardSettings) -> str | None:
    """Return what is proven to be wrong, or None."""
    optimized = np.asarray(evidence.optimized)
    if optimized.min() == optimized.max():
        return "the optimised model gives every row the same output"
    for c in found.criteria:
        if c.lost:
            return f"{c.fell} by at least {c.low:.5f}, more than {c.margin:g}"
    worst_slice = found.worst_slice
    if worst_slice is not None and vetoes(worst_slice, settings):
        return (
            f"AUC fell by at least {-worst_slice.high:.5f} on the slice {worst_slice.name!r} "
            f"({worst_slice.rows:,} rows), more than {settings.margin_slice:g}"
        )
    return None


def _rows_to_decide(found: Findings, settings: GuardSettings) -> int | None:
    """Return how many rows would decide, or None where only other rows would."""
    enough = found.rows >= _FEWEST_ROWS and found.rarer >= _FEWEST_OF_A_CLASS
    if enough and all(c.kept for c in found.criteria):
        return None
    fewest = max(_FEWEST_ROWS, -(-found.rows * _FEWEST_OF_A_CLASS // max(1, found.rarer)))
    return rows_to_decide(found.criteria, found.rows, settings.power, fewest)


def _diverged(evidence: Evidence, said: dict[str, Any]) -> GuardEntry:
    bad = int((~np.isfinite(evidence.optimized)).sum())
    differences = [
        f"delta_{name}{end}" for name in ("auc", "log_loss") for end in ("", "_low", "_high")
    ]
    unknown: dict[str, Any] = dict.fromkeys(
        ["auc_optimized", "calibration_optimized", *differences]
    )
    return GuardEntry(
        verdict="fail",
        reason=f"{bad} of {len(evidence.optimized)} optimised outputs are NaN or infinite",
        rows_to_decide=None,
        auc_baseline=auc(evidence.labels, evidence.baseline),
        **one_model(evidence.labels, evidence.baseline, "baseline"),
        **unknown,
        **said,
    )
