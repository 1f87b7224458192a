"""Every margin has its say, and bad input is an error or a verdict, never a silent pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from headway.bundle import GuardEntry
from headway.compress.guard import Evidence, GuardSettings, Slice, judge
from headway.core import DataError, UsageError

QUICK = GuardSettings(rounds=200)
WIDE = GuardSettings(
    margin_auc=0.5,
    margin_log_loss=10.0,
    margin_ndcg=0.9,
    margin_calibration=9.0,
    margin_ece=0.9,
    margin_slice=0.9,
    rounds=200,
)


def clicks(seed: int, rows: int = 30_000, size: int = 10) -> Evidence:
    """Calibrated log odds of clicks in queries of ``size`` rows."""
    rng = np.random.default_rng(seed)
    groups = np.arange(rows) // size
    raw = -1 + rng.normal(size=rows) + 0.3 * rng.normal(size=rows // size)[groups]
    labels = (rng.random(rows) < 1 / (1 + np.exp(-raw))).astype(float)
    return Evidence(labels, raw, raw.copy(), groups)


def verdict(evidence: Evidence, settings: GuardSettings = QUICK, **named: Any) -> GuardEntry:
    return judge(evidence, settings, np.random.default_rng(0), **named)


def with_margin(name: str, margin: float | None) -> GuardSettings:
    return msgspec.structs.replace(WIDE, **{name: margin})


def test_a_copy_passes_by_every_default_margin_and_the_reason_names_them() -> None:
    entry = verdict(clicks(1, rows=60_000))
    assert entry.verdict == "pass"
    for word in ("AUC", "log loss", "NDCG@10", "predicted over observed", "calibration error"):
        assert word in entry.reason
    assert entry.rows_to_decide is None
    assert entry.normalized_entropy_optimized == entry.normalized_entropy_baseline
    assert 0 < (entry.normalized_entropy_baseline or 0) < 1
    assert entry.rounds == 200


def noisy_order(evidence: Evidence) -> np.ndarray:
    return evidence.baseline + 0.5 * np.random.default_rng(9).normal(size=len(evidence.labels))


@pytest.mark.parametrize(
    ("margin", "change", "word"),
    [
        ("margin_auc", noisy_order, "AUC fell"),
        ("margin_log_loss", lambda e: 1.8 * e.baseline, "log loss rose"),
        ("margin_ndcg", noisy_order, "NDCG@10 fell"),
        ("margin_calibration", lambda e: e.baseline + 0.3, "predicted over observed moved"),
        ("margin_ece", lambda e: 1.8 * e.baseline + 0.1, "calibration error rose"),
    ],
)
def test_each_margin_alone_can_fail_a_model(margin: str, change: Any, word: str) -> None:
    evidence = clicks(2)
    worse = replace(evidence, optimized=change(evidence))
    strict = verdict(worse, with_margin(margin, 0.005))
    assert strict.verdict == "fail"
    assert strict.reason.startswith(word)
    assert verdict(worse, WIDE).verdict == "pass"


@pytest.mark.parametrize("margin", ["margin_ndcg", "margin_calibration", "margin_ece"])
def test_a_margin_of_none_leaves_its_figure_out_of_the_verdict_but_shows_it(margin: str) -> None:
    evidence = clicks(3, rows=5000)
    worse = replace(evidence, optimized=noisy_order(evidence) + 0.3)
    assert verdict(worse, with_margin(margin, 0.001)).verdict != "pass"
    entry = verdict(worse, with_margin(margin, None))
    assert entry.verdict == "pass"
    assert getattr(entry, margin) is None
    assert entry.delta_ndcg_low is not None
    assert entry.calibration_move_high is not None
    assert entry.ece_move_high is not None


@pytest.mark.parametrize(
    "margin",
    ["margin_auc", "margin_log_loss", "margin_ndcg", "margin_calibration", "margin_ece",
     "margin_slice"],
)  # fmt: skip
@pytest.mark.parametrize("value", [0.0, -0.001, float("nan"), float("inf")])
def test_a_margin_of_zero_is_refused(margin: str, value: float) -> None:
    with pytest.raises(UsageError, match=r"margin of .* cannot be proven"):
        msgspec.structs.replace(QUICK, **{margin: value}).__post_init__()


@pytest.mark.parametrize("settings", [{"confidence": 0.4}, {"rounds": 10}, {"max_shared_rows": 2}])
def test_settings_out_of_range_are_refused_in_python_too(settings: Any) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        GuardSettings(**settings)


def test_better_calibration_than_the_original_is_no_fault() -> None:
    good = clicks(4)
    shifted = Evidence(good.labels, good.baseline + 0.5, good.baseline, good.groups)
    entry = verdict(shifted, with_margin("margin_calibration", 0.01))
    assert entry.verdict == "pass"
    assert entry.calibration_move_high is not None
    assert entry.calibration_move_high < 0


def test_few_queries_leave_ndcg_out_and_the_reason_says_so() -> None:
    evidence = clicks(5, rows=1500)
    entry = verdict(evidence, WIDE)
    assert "NDCG@10 was not judged: 14" in entry.reason
    assert entry.margin_ndcg is None
    assert entry.ndcg_baseline is not None
    enough = msgspec.structs.replace(WIDE, fewest_queries=100)
    assert "NDCG@10 fell by at most" in verdict(evidence, enough).reason


def test_few_queries_still_fail_a_proven_loss_of_their_order() -> None:
    evidence = clicks(5, rows=1500)
    backwards = replace(evidence, optimized=-evidence.baseline)
    entry = verdict(backwards, with_margin("margin_ndcg", 0.002))
    assert entry.verdict == "fail"
    assert "NDCG@10 fell by at least" in entry.reason


def test_queries_of_one_class_have_no_order_to_judge() -> None:
    evidence = clicks(6, rows=3000)
    single = replace(evidence, groups=evidence.labels * 3000 + np.arange(3000) // 10)
    entry = verdict(single, WIDE)
    assert entry.queries == 0
    assert "hold one class" in entry.reason
    alone = verdict(replace(evidence, groups=None), WIDE)
    assert alone.queries is None
    assert ";" not in alone.reason


def test_queries_that_are_few_prove_nothing_about_queries_not_seen() -> None:
    evidence = clicks(7, rows=60_000, size=200)
    entry = verdict(evidence, msgspec.structs.replace(QUICK, margin_ndcg=None))
    assert entry.verdict == "not proven"
    assert "queries (by their worth)" in entry.reason
    entry = verdict(evidence, msgspec.structs.replace(QUICK, margin_auc=0.1))
    assert entry.verdict == "not proven"
    assert "queries with both classes" in entry.reason
    assert entry.rows_to_decide is not None
    # Queries as long as these could lose all they have, which is most of 1.
    assert 0.6 * 1921 * 200 < entry.rows_to_decide < 1.02 * 1921 * 200
    assert verdict(evidence, proven_equal=True).verdict == "pass"


@pytest.mark.parametrize(
    ("share", "expected"), [(None, "pass"), (0.01, "pass"), (0.02, "not proven")]
)
def test_rows_that_trained_the_model_do_not_judge_it(share: float | None, expected: str) -> None:
    evidence = replace(clicks(8, rows=60_000), shared_rows=share)
    entry = verdict(evidence)
    assert entry.verdict == expected
    assert entry.shared_rows == share
    if expected != "pass":
        assert "2.0% of the judging rows stand among the training rows" in entry.reason
        assert "max_shared_rows" in entry.reason
        assert entry.rows_to_decide is None, "more rows are not what is missing"
        assert verdict(evidence, msgspec.structs.replace(QUICK, max_shared_rows=0.5)).verdict == (
            "pass"
        )


def test_a_proven_loss_fails_though_rows_are_shared() -> None:
    evidence = clicks(9)
    worse = replace(evidence, optimized=-evidence.baseline, shared_rows=0.5)
    assert verdict(worse).verdict == "fail"


def test_a_slice_that_lost_much_vetoes_though_the_whole_did_not() -> None:
    evidence = clicks(10, rows=60_000)
    rng = np.random.default_rng(0)
    hit = np.arange(1200)
    optimized = evidence.baseline.copy()
    optimized[hit] = rng.permutation(optimized[hit])
    slices = (Slice("item = 7", hit), Slice("item = 8", np.arange(5000, 9000)))
    broken = replace(evidence, optimized=optimized, slices=slices)
    entry = verdict(broken, with_margin("margin_slice", 0.01))
    assert entry.verdict == "fail"
    assert "slice 'item = 7' (1,200 rows)" in entry.reason
    assert (entry.worst_slice, entry.worst_slice_rows, entry.slices) == ("item = 7", 1200, 2)
    assert entry.worst_slice_high is not None
    assert entry.worst_slice_high < -0.01
    kept = verdict(broken, with_margin("margin_slice", None))
    assert (kept.verdict, kept.slices, kept.worst_slice) == ("pass", 0, None)


def test_a_slice_too_small_to_tell_blocks_nothing() -> None:
    evidence = clicks(11, rows=60_000)
    optimized = evidence.baseline + 1e-3 * np.random.default_rng(0).normal(size=60_000)
    tiny = (Slice("a", np.arange(3)), Slice("b", np.arange(900)))
    entry = verdict(replace(evidence, optimized=optimized, slices=tiny))
    assert entry.verdict == "pass"
    assert (entry.slices, entry.worst_slice) == (1, "b")


def test_more_slices_make_each_bound_wider() -> None:
    evidence = replace(clicks(12), optimized=noisy_order(clicks(12)))
    own = Slice("own", np.arange(3000))
    others = tuple(Slice(f"{i}", np.arange(i, 30_000, 10)) for i in range(9))
    alone = verdict(replace(evidence, slices=(own,)), WIDE)
    among = verdict(replace(evidence, slices=(own, *others)), WIDE)
    assert alone.worst_slice == "own"
    assert among.slices == 10
    assert among.worst_slice_high is not None
    assert among.worst_slice_low is not None
    assert alone.worst_slice_high is not None
    assert alone.worst_slice_low is not None
    wide = among.worst_slice_high - among.worst_slice_low
    assert wide > alone.worst_slice_high - alone.worst_slice_low


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_original_with_broken_outputs_is_an_error(bad: float) -> None:
    evidence = clicks(13, rows=1000)
    broken = evidence.baseline.copy()
    broken[4] = bad
    with pytest.raises(DataError, match="1 of 1000 outputs of the original model"):
        verdict(replace(evidence, baseline=broken))


def test_constant_scores_are_an_error_in_the_original_and_a_fail_in_the_copy() -> None:
    evidence = clicks(14, rows=1000)
    flat = np.full(1000, 0.25)
    with pytest.raises(DataError, match="same output"):
        verdict(replace(evidence, baseline=flat, optimized=flat))
    entry = verdict(replace(evidence, optimized=flat), WIDE)
    assert (entry.verdict, "same output" in entry.reason) == ("fail", True)


def test_labels_that_are_missing_are_an_error() -> None:
    evidence = clicks(15, rows=1000)
    labels = evidence.labels.copy()
    labels[0] = np.nan
    with pytest.raises(DataError, match="0 or 1"):
        verdict(replace(evidence, labels=labels))


def test_outputs_as_large_as_float32_holds_fail_by_log_loss() -> None:
    evidence = clicks(16, rows=3000)
    huge = (evidence.baseline * 1e37).astype(np.float32).astype(np.float64)
    entry = verdict(replace(evidence, optimized=huge))
    assert entry.verdict == "fail"
    assert "log loss" in entry.reason


@rules(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 99))
def test_few_rows_never_pass(negatives: int, positives: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0.0, 1.0], [negatives, positives])
    raw = rng.normal(size=len(labels))
    evidence = Evidence(labels, raw, raw, np.arange(len(labels)) // 5)
    try:
        entry = verdict(evidence)
    except DataError:
        assert min(negatives, positives) < 2 or len(labels) < 45
    else:
        assert entry.verdict == "not proven"
        assert entry.rows_to_decide is None or entry.rows_to_decide > len(labels)
