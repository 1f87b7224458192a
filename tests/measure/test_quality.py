"""Quality measures agree with their definitions and with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import DataError
from headway.measure import (
    auc,
    calibration_ratio,
    delong_paired,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
    paired_bootstrap,
    probabilities,
)


def brute_auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def brute_delong_variance(labels: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> float:
    def placements(scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
        wins = (above > 0) + 0.5 * (above == 0)
        return wins.mean(axis=1), wins.mean(axis=0)

    (pos_a, neg_a), (pos_b, neg_b) = placements(a), placements(b)
    pos, neg = pos_b - pos_a, neg_b - neg_a
    return float(pos.var(ddof=1) / len(pos) + neg.var(ddof=1) / len(neg))


def labelled(rows: int, seed: int, levels: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.4).astype(np.float32)
    labels[:4] = [0, 1, 0, 1]
    a = rng.integers(levels, size=rows) + labels
    return labels, a.astype(np.float32), (a + rng.integers(levels, size=rows)).astype(np.float32)


@given(st.integers(4, 60), st.integers(0, 9999), st.integers(1, 20))
def test_auc_counts_ordered_pairs_and_half_of_ties(rows: int, seed: int, levels: int) -> None:
    labels, a, _ = labelled(rows, seed, levels)
    assert auc(labels, a) == pytest.approx(brute_auc(labels, a), abs=1e-12)


def test_auc_and_log_loss_agree_with_scikit_learn() -> None:
    from sklearn.metrics import log_loss as reference_loss
    from sklearn.metrics import roc_auc_score

    labels, a, b = labelled(5000, 1, 50)
    raw = (b - a) / 25
    assert auc(labels, b) == pytest.approx(roc_auc_score(labels, b), abs=1e-12)
    expected = reference_loss(labels, probabilities(raw))
    assert log_loss(labels, raw) == pytest.approx(expected, rel=1e-9)


def test_huge_logits_have_a_finite_loss() -> None:
    rows = log_loss_rows(np.array([1, 0, 1, 0]), np.array([1e4, -1e4, -1e4, 1e4]))
    assert rows.tolist() == [0, 0, 1e4, 1e4]
    assert probabilities(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]


@given(st.integers(4, 50), st.integers(0, 9999), st.integers(1, 12))
def test_fast_delong_equals_its_definition(rows: int, seed: int, levels: int) -> None:
    labels, a, b = labelled(rows, seed, levels)
    found = delong_paired(labels, a, b)
    assert found.delta == pytest.approx(brute_auc(labels, b) - brute_auc(labels, a), abs=1e-12)
    expected = brute_delong_variance(labels, a, b)
    assert found.standard_error**2 == pytest.approx(expected, abs=1e-12)


def test_the_same_scores_do_not_differ() -> None:
    labels, a, _ = labelled(500, 3, 9)
    found = delong_paired(labels, a, 2 * a + 1)
    assert (found.delta, found.standard_error, found.interval()) == (0, 0, (0, 0))


def test_delong_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(300):
        labels = (rng.random(300) < 0.5).astype(int)
        signal = labels + rng.normal(size=300)
        # Both add independent noise of one size, so the true difference is zero.
        a, b = signal + rng.normal(size=300), signal + rng.normal(size=300)
        low, high = delong_paired(labels, a, b).interval(0.9)
        covered += low <= 0 <= high
    assert 0.85 <= covered / 300 <= 0.95


def test_rows_that_come_in_copies_do_not_count_as_new_evidence() -> None:
    labels, a, b = labelled(400, 5, 40)
    ids = np.arange(400)
    once = delong_paired(labels, a, b)
    many_labels, many_a, many_b, groups = (np.repeat(x, 9) for x in (labels, a, b, ids))
    copies = delong_paired(many_labels, many_a, many_b, groups)
    assert copies.delta == pytest.approx(once.delta)
    assert copies.standard_error == pytest.approx(once.standard_error, rel=1e-6)


def test_grouped_interval_covers_where_rows_of_a_user_are_alike() -> None:
    rng = np.random.default_rng(4)
    grouped = plain = 0
    for _ in range(200):
        users = np.repeat(np.arange(40), 10)
        labels = rng.random(400) < 0.5
        a, b = (labels + rng.normal(size=40)[users] + 0.1 * rng.normal(size=400) for _ in "ab")
        low, high = delong_paired(labels, a, b, users).interval(0.9)
        grouped += low <= 0 <= high
        low, high = delong_paired(labels, a, b).interval(0.9)
        plain += low <= 0 <= high
    assert grouped / 200 >= 0.84
    assert plain != grouped


def test_bootstrap_interval_is_about_the_normal_one() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(0.1, 1.0, size=4000)
    found = paired_bootstrap(rows, rng, rounds=3000)
    error = rows.std() / np.sqrt(len(rows))
    assert found.mean == pytest.approx(rows.mean())
    assert found.standard_error == pytest.approx(error, rel=0.06)
    assert found.low == pytest.approx(rows.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(rows.mean() + 1.96 * error, abs=0.2 * error)


def test_bootstrap_by_group_widens_where_rows_repeat() -> None:
    values = np.random.default_rng(0).normal(size=200)
    groups = np.repeat(np.arange(200), 25)
    rows = np.repeat(values, 25)
    alone = paired_bootstrap(values, np.random.default_rng(1))
    plain = paired_bootstrap(rows, np.random.default_rng(1))
    grouped = paired_bootstrap(rows, np.random.default_rng(1), groups=groups)
    assert grouped.standard_error == pytest.approx(alone.standard_error, rel=1e-9)
    assert plain.standard_error < grouped.standard_error / 3


def test_bootstrap_repeats_with_its_seed() -> None:
    rows = np.random.default_rng(0).normal(size=100)
    first, second = (paired_bootstrap(rows, np.random.default_rng(8)) for _ in range(2))
    assert first == second


def test_calibration_ratio_is_predicted_over_observed() -> None:
    assert calibration_ratio(np.array([0, 1]), np.array([0.5, 0.75])) == 1.25


def test_calibrated_probabilities_have_a_small_error_and_shifted_ones_theirs() -> None:
    rng = np.random.default_rng(6)
    p = rng.uniform(0.1, 0.6, size=200_000)
    labels = rng.random(len(p)) < p
    assert expected_calibration_error(labels, p) < 0.005
    assert expected_calibration_error(labels, p + 0.1) == pytest.approx(0.1, abs=0.005)


def test_one_constant_prediction_is_one_bin() -> None:
    error = expected_calibration_error(np.array([0, 0, 1, 0]), np.full(4, 0.5))
    assert error == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 0], [0.1, 0.2], "both classes"),
        ([0, 1], [0.1, np.nan], "not finite"),
        ([0, 1], [0.1], "must be one row each"),
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([], [], "not empty"),
    ],
)
def test_unusable_rows_are_refused_with_their_fault(
    labels: list[int], scores: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        auc(np.array(labels), np.array(scores))


def test_delong_refuses_a_single_row_of_a_class() -> None:
    with pytest.raises(DataError, match="at least two"):
        delong_paired(np.array([0, 0, 1]), np.arange(3), np.arange(3))
