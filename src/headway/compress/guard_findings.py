"""What the rows say: every figure of the guard, with its bounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.compress.guard_criteria import Criterion, independent_units, query_units
from headway.compress.guard_evidence import Evidence
from headway.compress.guard_settings import GuardSettings
from headway.compress.guard_slices import SliceLoss, judge_slices
from headway.measure import (
    MeanDifference,
    bootstrap_pair,
    calibration_ratio,
    calibration_shift,
    delong_paired,
    expected_calibration_error,
    log_loss_rows,
    normalized_entropy,
    paired_bootstrap,
    probabilities,
    rank_queries,
)

FIRST = 10
"""How many of a query's first rows NDCG and hit rate look at."""
_FLOAT32_NOISE = 5e-5
"""Largest change of an output, as a share of the outputs' spread, that rounding alone explains."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Criteria to be met, and figures to be shown.

    Attributes:
        criteria: those that have a part in the verdict; AUC and log loss come first.
        figures: fields of ``bundle.GuardEntry``.
        rows: judged on.
        rarer: of them, rows of the rarer class.
        note: what was not judged, or an empty string.
        worst_slice: if slices were looked at.
    """

    criteria: tuple[Criterion, ...]
    figures: dict[str, Any]
    rows: int
    rarer: int
    note: str
    worst_slice: SliceLoss | None


def gather(
    evidence: Evidence,
    settings: GuardSettings,
    confidence: float,
    rng: np.random.Generator,
    *,
    proven_equal: bool,
) -> Findings:
    """Return all that the rows say, at a one-sided confidence of each bound.

    Raises:
        DataError: as the measures do.
    """
    sure = proven_equal and _only_rounding(evidence)
    auc, loss, figures = _auc_and_loss(evidence, settings, confidence, rng, sure=sure)
    moves, moved = _calibration(evidence, settings, confidence)
    order, ranked, note = _ranking(evidence, settings, confidence, rng, sure=sure)
    worst, slices = judge_slices(evidence, settings, confidence)
    positives = int((np.asarray(evidence.labels) > 0.5).sum())
    rows = len(evidence.labels)
    return Findings(
        criteria=(auc, loss, *order, *moves),
        figures={
            **one_model(evidence.labels, evidence.baseline, "baseline"),
            **one_model(evidence.labels, evidence.optimized, "optimized"),
            **figures,
            **moved,
            **ranked,
            **_slice_figures(worst, slices),
        },
        rows=rows,
        rarer=min(positives, rows - positives),
        note=note,
        worst_slice=worst,
    )


def one_model(labels: NDArray[Any], raw: NDArray[Any], name: str) -> dict[str, Any]:
    """Return calibration and normalised entropy of one model, as fields of a guard entry."""
    p = probabilities(raw)
    return {
        f"calibration_{name}": number(calibration_ratio(labels, p)),
        f"ece_{name}": number(expected_calibration_error(labels, p)),
        f"normalized_entropy_{name}": number(normalized_entropy(labels, raw)),
    }


def number(value: float) -> float | None:
    """Return the value, or None where it has none: JSON knows neither NaN nor infinity."""
    return float(value) if isfinite(value) else None


def _only_rounding(evidence: Evidence) -> bool:
    baseline = np.asarray(evidence.baseline, np.float64)
    change = np.abs(np.asarray(evidence.optimized, np.float64) - baseline)
    return bool(change.max(initial=0.0) <= _FLOAT32_NOISE * baseline.std())


def _wider(found: MeanDifference, confidence: float) -> tuple[float, float]:
    """Return the outer bounds of percentiles and of the normal interval: neither suits all."""
    reach = NormalDist().inv_cdf(confidence) * found.standard_error
    return min(found.low, found.mean - reach), max(found.high, found.mean + reach)


def _auc_and_loss(
    evidence: Evidence,
    settings: GuardSettings,
    confidence: float,
    rng: np.random.Generator,
    *,
    sure: bool,
) -> tuple[Criterion, Criterion, dict[str, Any]]:
    labels, a, b, groups = (
        evidence.labels, evidence.baseline, evidence.optimized, evidence.groups
    )  # fmt: skip
    rise = log_loss_rows(labels, b) - log_loss_rows(labels, a)
    delong = delong_paired(labels, a, b, groups)
    drawn = bootstrap_pair(labels, (a, b), rise, rng, rounds=settings.rounds, groups=groups)
    two_sided = 2 * confidence - 1
    outer = delong.interval(two_sided), _wider(drawn.auc(two_sided), confidence)
    low, high = min(low for low, _ in outer), max(high for _, high in outer)
    auc = Criterion(
        fell="AUC fell",
        may="AUC may have fallen",
        loss=-delong.delta,
        low=-high,
        high=-low,
        margin=settings.margin_auc,
        confidence=confidence,
        units=None if sure else independent_units(labels, groups, delong.auc_a),
    )
    mean = drawn.mean(two_sided)
    bounds = _wider(mean, confidence)
    loss = Criterion(
        "log loss rose", "log loss may have risen", mean.mean, *bounds,
        settings.margin_log_loss, confidence,
    )  # fmt: skip
    figures = {
        "auc_baseline": delong.auc_a,
        "auc_optimized": number(delong.auc_b),
        "delta_auc": number(delong.delta),
        "delta_auc_low": number(low),
        "delta_auc_high": number(high),
        "delta_log_loss": number(loss.loss),
        "delta_log_loss_low": number(loss.low),
        "delta_log_loss_high": number(loss.high),
        "rounds": drawn.rounds,
    }
    return auc, loss, figures


def _calibration(
    evidence: Evidence, settings: GuardSettings, confidence: float
) -> tuple[list[Criterion], dict[str, float | None]]:
    p = [probabilities(raw) for raw in (evidence.baseline, evidence.optimized)]
    asked = {
        "calibration": ("predicted over observed moved from 1", None, settings.margin_calibration),
        "ece": ("calibration error rose", 20, settings.margin_ece),
    }
    criteria, figures = [], {}
    for name, (what, bins, margin) in asked.items():
        shift = calibration_shift(
            evidence.labels, *p, bins=bins, confidence=2 * confidence - 1, groups=evidence.groups
        )
        figures[f"margin_{name}"] = margin
        figures[f"{name}_move_high"] = number(shift.high)
        if margin is not None:
            may = what.replace(" moved", " may have moved").replace(" rose", " may have risen")
            criteria.append(
                Criterion(what, may, shift.rise, shift.low, shift.high, margin, confidence)
            )
    return criteria, figures


def _ranking(
    evidence: Evidence,
    settings: GuardSettings,
    confidence: float,
    rng: np.random.Generator,
    *,
    sure: bool,
) -> tuple[list[Criterion], dict[str, float | int | None], str]:
    """Judge the order within queries, each query with both classes being one draw."""
    if evidence.groups is None:
        return [], {}, ""
    a, b = (
        rank_queries(evidence.labels, raw, evidence.groups, FIRST)
        for raw in (evidence.baseline, evidence.optimized)
    )
    queries = len(a.ids)
    if queries < 2:
        return [], {"queries": queries}, "no order within queries was judged: they hold one class"
    figures = {
        "margin_ndcg": settings.margin_ndcg,
        "ndcg_baseline": number(a.ndcg.mean()),
        "ndcg_optimized": number(b.ndcg.mean()),
        "hit_rate_baseline": number(a.hit.mean()),
        "hit_rate_optimized": number(b.hit.mean()),
        "queries": queries,
    }
    two_sided = 2 * confidence - 1
    rounds = max(200, min(settings.rounds, 250_000_000 // queries))
    found = paired_bootstrap(a.ndcg - b.ndcg, rng, rounds=rounds, confidence=two_sided)
    exact = float((a.ndcg - b.ndcg).std(ddof=1)) / sqrt(queries)
    low, high = _wider(MeanDifference(found.mean, found.low, found.high, exact), confidence)
    figures |= {"delta_ndcg_low": number(-high), "delta_ndcg_high": number(-low)}
    if settings.margin_ndcg is None:
        return [], figures, ""
    units = None if sure else query_units(a.ndcg - a.worst)
    criterion = Criterion(
        f"NDCG@{FIRST} fell", f"NDCG@{FIRST} may have fallen", found.mean, low, high,
        settings.margin_ndcg, confidence, units,
    )  # fmt: skip
    if queries < settings.fewest_queries and not criterion.lost:
        figures["margin_ndcg"] = None
        return [], figures, (
            f"NDCG@{FIRST} was not judged: {queries:,} queries with both classes, fewer than "
            f"{settings.fewest_queries:,}"
        )  # fmt: skip
    return [criterion], figures, ""


def _slice_figures(worst: SliceLoss | None, slices: int) -> dict[str, Any]:
    if worst is None:
        return {"slices": slices}
    return {
        "slices": slices,
        "worst_slice": worst.name,
        "worst_slice_rows": worst.rows,
        "worst_slice_delta_auc": number(worst.delta_auc),
        "worst_slice_low": number(worst.low),
        "worst_slice_high": number(worst.high),
        "worst_slice_delta_log_loss": number(worst.delta_log_loss),
    }
