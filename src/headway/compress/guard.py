"""The guard: is the optimised model, for all the data can tell, no worse than the original?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite, log
from statistics import NormalDist
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.bundle import GuardEntry, Verdict
from headway.core import DataError, Link, Schema, UsageError
from headway.measure import (
    AucDifference,
    MeanDifference,
    calibration_ratio,
    delong_paired,
    expected_calibration_error,
    log_loss_rows,
    paired_bootstrap,
    probabilities,
)

_FEWEST_ROWS = 100
_FEWEST_OF_A_CLASS = 20
_NEVER = 10**12
_FLOAT32_NOISE = 5e-5
"""Largest change of an output, as a share of the outputs' spread, that rounding alone explains."""
_ORDER: dict[Verdict, int] = {"fail": 0, "not proven": 1, "pass": 2}


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much loss is too much, and how sure the guard has to be.

    Attributes:
        margin_auc: largest loss of AUC that does not count.
        margin_log_loss: largest rise of log loss, in nats, that does not count.
        confidence: one-sided, of each bound.
        power: chance that ``rows_to_decide`` rows decide, if the observed difference is true.
        rounds: bootstrap resamples.
    """

    margin_auc: float = 0.001
    margin_log_loss: float = 0.001
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.975
    power: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.8
    rounds: Annotated[int, Meta(ge=200)] = 2000

    def __post_init__(self) -> None:
        """Refuse margins that no amount of data could satisfy.

        Raises:
            UsageError: for a margin that is not positive.
        """
        for name, margin in (("AUC", self.margin_auc), ("log loss", self.margin_log_loss)):
            if not 0 < margin < np.inf:
                raise UsageError(
                    f"a {name} margin of {margin} cannot be proven: no finite data shows a loss "
                    "of at most nothing; use a small positive margin such as 0.001"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Two models' raw outputs on the same untouched rows, for one task.

    Attributes:
        labels: ``[rows]`` of 0 and 1.
        baseline: raw outputs ``[rows]`` of the original model.
        optimized: raw outputs ``[rows]`` of the optimised one.
        groups: query or user of each row ``[rows]``, or None where rows are independent.
        task: its name, for the report.
    """

    labels: NDArray[Any]
    baseline: NDArray[Any]
    optimized: NDArray[Any]
    groups: NDArray[Any] | None = None
    task: str = "click"


@dataclass(frozen=True, slots=True)
class _Findings:
    auc: AucDifference
    auc_bounds: tuple[float, float]
    loss: MeanDifference
    rows: int
    rarer: int
    rarer_needed: int = _FEWEST_OF_A_CLASS


def judge(
    evidence: Evidence,
    settings: GuardSettings,
    rng: np.random.Generator,
    *,
    looks: int = 1,
    proven_equal: bool = False,
) -> GuardEntry:
    """Say whether the optimised model is no worse than the original by more than the margins.

    Non-inferiority on paired rows. AUC: DeLong's interval of the difference; log loss: paired
    bootstrap; both by groups where given. Pass: both bounds of the loss lie within their
    margins (an intersection-union test, so the two need no correction for each other). Fail:
    one loss is proven to exceed its margin, or an output is not finite. Otherwise not proven,
    with the number of rows that would decide: the observed variance scaled to the distance
    between the observed difference and the margin.

    The bounds see only what the rows show. A loss that sits in few rows may have few of them
    here or none, and then looks smaller and steadier than it is. So a pass also needs enough
    rows of the rarer class, as ``_rarer_needed`` derives.

    Args:
        evidence: outputs on rows that chose nothing.
        settings: margins and confidence.
        rng: source of the bootstrap.
        looks: how many candidates are judged on these rows in all; the error allowed is shared
            among them (Bonferroni).
        proven_equal: the two were shown to compute the same by other means than these rows, so
            no loss can hide; counts only while these rows, too, differ by no more than
            float32 rounding.

    Raises:
        DataError: if a class is missing, labels are not 0 and 1, or the baseline is not finite.
    """
    if looks < 1:
        raise UsageError(f"a verdict is at least the first look at the rows, not look {looks}")
    confidence = 1 - (1 - settings.confidence) / looks
    if not np.isfinite(evidence.optimized).all():
        return _diverged(evidence, settings, confidence)
    findings = _findings(evidence, settings, confidence, rng)
    if not (proven_equal and _only_rounding(evidence)):
        needed = _rarer_needed(findings.auc.delta, settings.margin_auc, confidence)
        findings = replace(findings, rarer_needed=needed)
    verdict, reason = _verdict(findings, settings)
    return GuardEntry(
        verdict=verdict,
        reason=reason,
        confidence=confidence,
        margin_auc=settings.margin_auc,
        margin_log_loss=settings.margin_log_loss,
        delta_auc=_finite(findings.auc.delta),
        delta_auc_low=_finite(findings.auc_bounds[0]),
        delta_auc_high=_finite(findings.auc_bounds[1]),
        auc_baseline=findings.auc.auc_a,
        auc_optimized=_finite(findings.auc.auc_b),
        delta_log_loss=_finite(findings.loss.mean),
        delta_log_loss_low=_finite(findings.loss.low),
        delta_log_loss_high=_finite(findings.loss.high),
        calibration_baseline=_calibration(evidence.labels, evidence.baseline),
        calibration_optimized=_calibration(evidence.labels, evidence.optimized),
        ece_baseline=_calibration_error(evidence.labels, evidence.baseline),
        ece_optimized=_calibration_error(evidence.labels, evidence.optimized),
        rows=findings.rows,
        rows_to_decide=(
            _rows_to_decide(findings, settings, confidence) if verdict == "not proven" else None
        ),
        task=evidence.task,
    )


def evidence_of_tasks(
    schema: Schema,
    labels: NDArray[Any],
    baseline: NDArray[Any],
    optimized: NDArray[Any],
    groups: NDArray[Any] | None = None,
) -> list[Evidence]:
    """Split arrays ``[rows, tasks]`` into one piece of evidence per task.

    Raises:
        DataError: if shapes differ.
        UsageError: if a task is not a click-like one, for which AUC says nothing.
    """
    if not labels.shape == baseline.shape == optimized.shape:
        raise DataError(
            f"labels {labels.shape}, baseline {baseline.shape} and optimised "
            f"{optimized.shape} outputs must have one shape, [rows, tasks]"
        )
    for task in schema.tasks:
        if task.link is not Link.SIGMOID:
            raise UsageError(
                f"task {task.name!r} has the link {task.link}; the guard judges sigmoid tasks"
            )
    return [
        Evidence(labels[:, i], baseline[:, i], optimized[:, i], groups, task.name)
        for i, task in enumerate(schema.tasks)
    ]


def worst(entries: Sequence[GuardEntry]) -> GuardEntry:
    """Return the least favourable verdict: a model passes only if all its tasks do."""

    def favour(entry: GuardEntry) -> tuple[int, float]:
        low = entry.delta_auc_low
        return _ORDER[entry.verdict], -np.inf if low is None else low

    return min(entries, key=favour)


def _rarer_needed(delta: float, margin: float, confidence: float) -> int:
    """Return how many rows of the rarer class exclude a concentrated loss beyond the margin m.

    Harming a share p of the positives and q of the negatives costs at most p + q of AUC. So a
    loss of m is at least n m harmed rows among n of each class: none are seen with a chance of
    at most exp(-n m), and as a Poisson count they vary by at least the root of n m. Required is
    that seeing none is rarer than the error allowed, and that the observed loss lies below m
    by ``z`` of those deviations (the score test, whose variance is that under the loss to be
    excluded, not the observed one, which is nothing if nothing was hit). Small changes on the
    rows seen say nothing of those unseen, so no look at the outputs can replace the number.
    """
    left = margin - max(0.0, -delta)
    if left <= 0:
        return _NEVER
    z = NormalDist().inv_cdf(confidence)
    return ceil(min(_NEVER, max(-log(1 - confidence) / margin, margin * (z / left) ** 2)))


def _only_rounding(evidence: Evidence) -> bool:
    baseline = np.asarray(evidence.baseline, np.float64)
    change = np.abs(np.asarray(evidence.optimized, np.float64) - baseline)
    return bool(change.max(initial=0.0) <= _FLOAT32_NOISE * baseline.std())


def _finite(value: float) -> float | None:
    """Return the value, or None where it has none: JSON knows neither NaN nor infinity."""
    return float(value) if isfinite(value) else None


def _calibration(labels: NDArray[Any], raw: NDArray[Any]) -> float | None:
    return _finite(calibration_ratio(labels, probabilities(raw)))


def _calibration_error(labels: NDArray[Any], raw: NDArray[Any]) -> float | None:
    return _finite(expected_calibration_error(labels, probabilities(raw)))


def _findings(
    evidence: Evidence, settings: GuardSettings, confidence: float, rng: np.random.Generator
) -> _Findings:
    two_sided = 2 * confidence - 1
    difference = delong_paired(
        evidence.labels, evidence.baseline, evidence.optimized, evidence.groups
    )
    loss = log_loss_rows(evidence.labels, evidence.optimized) - log_loss_rows(
        evidence.labels, evidence.baseline
    )
    positives = int((np.asarray(evidence.labels) > 0.5).sum())
    return _Findings(
        auc=difference,
        auc_bounds=difference.interval(two_sided),
        loss=paired_bootstrap(
            loss, rng, rounds=settings.rounds, confidence=two_sided, groups=evidence.groups
        ),
        rows=len(loss),
        rarer=min(positives, len(loss) - positives),
    )


def _verdict(found: _Findings, settings: GuardSettings) -> tuple[Verdict, str]:
    low, high = found.auc_bounds
    if found.rows < _FEWEST_ROWS or found.rarer < _FEWEST_OF_A_CLASS:
        return "not proven", (
            f"{found.rows} rows with {found.rarer} of the rarer class are too few to judge by; "
            f"at least {_FEWEST_ROWS} with {_FEWEST_OF_A_CLASS} are needed"
        )
    if high < -settings.margin_auc:
        return "fail", f"AUC fell by at least {-high:.5f}, more than {settings.margin_auc:g}"
    if found.loss.low > settings.margin_log_loss:
        return "fail", (
            f"log loss rose by at least {found.loss.low:.5f}, "
            f"more than {settings.margin_log_loss:g}"
        )
    if (doubt := _doubt(found, settings)) is not None:
        return "not proven", doubt
    return "pass", (
        f"AUC fell by at most {max(0.0, -low):.5f} and log loss rose by at most "
        f"{max(0.0, found.loss.high):.5f}"
    )


def _doubt(found: _Findings, settings: GuardSettings) -> str | None:
    """Return what keeps a result that did not fail from passing, or None."""
    low = found.auc_bounds[0]
    if low <= -settings.margin_auc:
        return f"AUC may have fallen by {-low:.5f}, more than {settings.margin_auc:g}"
    if found.loss.high >= settings.margin_log_loss:
        return (
            f"log loss may have risen by {found.loss.high:.5f}, "
            f"more than {settings.margin_log_loss:g}"
        )
    if found.rarer < found.rarer_needed:
        return (
            f"{found.rarer:,} rows of the rarer class may hold too few of those that a "
            f"concentrated loss of {settings.margin_auc:g} AUC would harm; "
            f"at least {found.rarer_needed:,} are needed"
        )
    return None


def _rows_to_decide(found: _Findings, settings: GuardSettings, confidence: float) -> int:
    """Return how many rows would decide if what was observed is true.

    One loss beyond its margin decides for a fail, so the sooner of those counts. Otherwise a
    pass is ahead, and waits for every bound that is still open and for the rarer class.
    """
    normal = NormalDist()
    reach = normal.inv_cdf(confidence) + normal.inv_cdf(settings.power)
    auc_left = settings.margin_auc + found.auc.delta
    loss_left = settings.margin_log_loss - found.loss.mean

    def rows(error: float, left: float) -> float:
        return found.rows * (reach * error / max(abs(left), 1e-12)) ** 2

    auc_rows = rows(found.auc.standard_error, auc_left)
    loss_rows = rows(found.loss.standard_error, loss_left)
    fails = [n for n, left in ((auc_rows, auc_left), (loss_rows, loss_left)) if left < 0]
    if fails:
        needed, rarer = min(fails), _FEWEST_OF_A_CLASS
    else:
        auc_open = found.auc_bounds[0] <= -settings.margin_auc
        loss_open = found.loss.high >= settings.margin_log_loss
        needed = max(auc_rows if auc_open else 0.0, loss_rows if loss_open else 0.0)
        rarer = found.rarer_needed
    if found.rarer < rarer:
        needed = max(needed, found.rows * rarer / found.rarer)
    return min(_NEVER, max(found.rows + 1, _FEWEST_ROWS, ceil(min(needed, _NEVER))))


def _diverged(evidence: Evidence, settings: GuardSettings, confidence: float) -> GuardEntry:
    bad = int((~np.isfinite(evidence.optimized)).sum())
    same = delong_paired(evidence.labels, evidence.baseline, evidence.baseline)
    return GuardEntry(
        verdict="fail",
        reason=f"{bad} of {len(evidence.optimized)} optimised outputs are NaN or infinite",
        confidence=confidence,
        margin_auc=settings.margin_auc,
        margin_log_loss=settings.margin_log_loss,
        delta_auc=None,
        delta_auc_low=None,
        delta_auc_high=None,
        auc_baseline=same.auc_a,
        auc_optimized=None,
        delta_log_loss=None,
        delta_log_loss_low=None,
        delta_log_loss_high=None,
        calibration_baseline=_calibration(evidence.labels, evidence.baseline),
        calibration_optimized=None,
        ece_baseline=_calibration_error(evidence.labels, evidence.baseline),
        ece_optimized=None,
        rows=len(evidence.labels),
        rows_to_decide=None,
        task=evidence.task,
    )
