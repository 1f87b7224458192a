"""The guard: is the optimised model, for all the data can tell, no worse than the original?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
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
    log_loss_rows,
    paired_bootstrap,
    probabilities,
)

_FEWEST_ROWS = 100
_FEWEST_OF_A_CLASS = 20
_NEVER = 10**12
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


def judge(
    evidence: Evidence, settings: GuardSettings, rng: np.random.Generator, *, looks: int = 1
) -> GuardEntry:
    """Say whether the optimised model is no worse than the original by more than the margins.

    Non-inferiority on paired rows. AUC: DeLong's interval of the difference; log loss: paired
    bootstrap; both by groups where given. Pass: both bounds of the loss lie within their
    margins (an intersection-union test, so the two need no correction for each other). Fail:
    one loss is proven to exceed its margin, or an output is not finite. Otherwise not proven,
    with the number of rows that would decide: the observed variance scaled to the distance
    between the observed difference and the margin.

    Args:
        evidence: outputs on rows that chose nothing.
        settings: margins and confidence.
        rng: source of the bootstrap.
        looks: how many candidates are judged on these rows in all; the error allowed is shared
            among them (Bonferroni).

    Raises:
        DataError: if a class is missing, labels are not 0 and 1, or the baseline is not finite.
    """
    if looks < 1:
        raise UsageError(f"a verdict is at least the first look at the rows, not look {looks}")
    confidence = 1 - (1 - settings.confidence) / looks
    if not np.isfinite(evidence.optimized).all():
        return _diverged(evidence, settings, confidence)
    findings = _findings(evidence, settings, confidence, rng)
    verdict, reason = _verdict(findings, settings)
    return GuardEntry(
        verdict=verdict,
        reason=reason,
        confidence=confidence,
        margin_auc=settings.margin_auc,
        margin_log_loss=settings.margin_log_loss,
        delta_auc=findings.auc.delta,
        delta_auc_low=findings.auc_bounds[0],
        delta_auc_high=findings.auc_bounds[1],
        auc_baseline=findings.auc.auc_a,
        auc_optimized=findings.auc.auc_b,
        delta_log_loss=findings.loss.mean,
        delta_log_loss_low=findings.loss.low,
        delta_log_loss_high=findings.loss.high,
        calibration_baseline=calibration_ratio(evidence.labels, probabilities(evidence.baseline)),
        calibration_optimized=calibration_ratio(evidence.labels, probabilities(evidence.optimized)),
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
    return min(entries, key=lambda e: (_ORDER[e.verdict], e.delta_auc_low))


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
    if low <= -settings.margin_auc:
        return "not proven", (
            f"AUC may have fallen by {-low:.5f}, more than {settings.margin_auc:g}"
        )
    if found.loss.high >= settings.margin_log_loss:
        return "not proven", (
            f"log loss may have risen by {found.loss.high:.5f}, "
            f"more than {settings.margin_log_loss:g}"
        )
    return "pass", (
        f"AUC fell by at most {max(0.0, -low):.5f} and log loss rose by at most "
        f"{max(0.0, found.loss.high):.5f}"
    )


def _rows_to_decide(found: _Findings, settings: GuardSettings, confidence: float) -> int:
    normal = NormalDist()
    reach = normal.inv_cdf(confidence) + normal.inv_cdf(settings.power)
    needed = float(_FEWEST_ROWS)
    if found.rarer < _FEWEST_OF_A_CLASS:
        needed = max(needed, found.rows * _FEWEST_OF_A_CLASS / found.rarer)
    for error, distance in (
        (found.auc.standard_error, settings.margin_auc + found.auc.delta),
        (found.loss.standard_error, settings.margin_log_loss - found.loss.mean),
    ):
        if error:
            needed = max(needed, found.rows * (reach * error / max(abs(distance), 1e-12)) ** 2)
    return min(_NEVER, max(found.rows + 1, ceil(needed)))


def _diverged(evidence: Evidence, settings: GuardSettings, confidence: float) -> GuardEntry:
    bad = int((~np.isfinite(evidence.optimized)).sum())
    same = delong_paired(evidence.labels, evidence.baseline, evidence.baseline)
    calibration = calibration_ratio(evidence.labels, probabilities(evidence.baseline))
    nan = float("nan")
    return GuardEntry(
        verdict="fail",
        reason=f"{bad} of {len(evidence.optimized)} optimised outputs are NaN or infinite",
        confidence=confidence,
        margin_auc=settings.margin_auc,
        margin_log_loss=settings.margin_log_loss,
        delta_auc=nan,
        delta_auc_low=nan,
        delta_auc_high=nan,
        auc_baseline=same.auc_a,
        auc_optimized=nan,
        delta_log_loss=nan,
        delta_log_loss_low=nan,
        delta_log_loss_high=nan,
        calibration_baseline=calibration,
        calibration_optimized=nan,
        rows=len(evidence.labels),
        rows_to_decide=None,
        task=evidence.task,
    )
