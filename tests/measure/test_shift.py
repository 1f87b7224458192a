"""A move away from observed rates is bounded as often as promised."""

from __future__ import annotations

import numpy as np
import pytest

from headway.core import DataError
from headway.measure import calibration_shift, log_loss, normalized_entropy, probabilities


def test_unchanged_predictions_have_not_moved() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.6, size=500)
    found = calibration_shift(rng.random(500) < p, p, p)
    assert (found.rise, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("bins", [1, 20])
@pytest.mark.parametrize("rows", [300, 5000])
def test_a_true_move_is_seldom_above_the_bound_though_chance_hides_it(bins: int, rows: int) -> None:
    rng = np.random.default_rng(bins + rows)
    missed = 0
    for _ in range(300):
        p = rng.uniform(0.1, 0.6, size=rows)
        labels = rng.random(rows) < p
        found = calibration_shift(labels, p, p + 0.02, bins=bins, confidence=0.95)
        # The first is calibrated, so the true rise is 0.02.
        missed += found.high < 0.02 - 1e-9
    assert missed / 300 <= 0.05


def test_predicted_over_observed_is_bounded_though_the_observed_rate_is_an_estimate() -> None:
    rng = np.random.default_rng(8)
    missed = 0
    for _ in range(400):
        p = rng.uniform(0.1, 0.6, size=1000)
        labels = rng.random(1000) < p
        found = calibration_shift(labels, p, p + 0.014, bins=None)
        # 0.014 of 0.35 is 0.04.
        missed += found.high < 0.04
    assert missed / 400 <= 0.025 + 4 * 0.0078
    with pytest.raises(DataError, match="at least one positive"):
        calibration_shift(np.zeros(3), np.full(3, 0.2), np.full(3, 0.2), bins=None)


def test_a_move_towards_the_observed_rate_counts_as_better_once_it_is_proven() -> None:
    rng = np.random.default_rng(3)
    p = rng.uniform(0.2, 0.6, size=100_000)
    labels = rng.random(len(p)) < p
    better = calibration_shift(labels, p - 0.1, p - 0.02)
    assert better.rise == pytest.approx(-0.08, abs=0.005)
    assert better.high < -0.07
    worse = calibration_shift(labels, p - 0.02, p - 0.1)
    assert worse.low > 0.07
    few = calibration_shift(labels[:60], p[:60] - 0.1, p[:60] - 0.02)
    assert few.high > 0


def test_rows_that_come_in_copies_prove_no_more() -> None:
    rng = np.random.default_rng(4)
    p = rng.uniform(0.1, 0.6, size=400)
    labels, other = rng.random(400) < p - 0.05, p + 0.03 * rng.normal(size=400) - 0.02
    once = calibration_shift(labels, p, other)
    copies = calibration_shift(
        *(np.repeat(x, 9) for x in (labels, p, other)), groups=np.repeat(np.arange(400), 9)
    )
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    with pytest.raises(DataError, match="groups have shape"):
        calibration_shift(labels, p, other, groups=np.zeros(3))


def test_normalised_entropy_is_one_for_the_observed_rate() -> None:
    labels = np.array([1.0, 0, 0, 0, 0])
    rate = np.full(5, np.log(0.2 / 0.8))
    assert normalized_entropy(labels, rate) == pytest.approx(1)
    better = rate + np.array([1, 0, 0, 0, -1])
    assert normalized_entropy(labels, better) == pytest.approx(
        log_loss(labels, better) / log_loss(labels, rate)
    )
    assert probabilities(rate)[0] == pytest.approx(0.2)
    with pytest.raises(DataError, match="both classes"):
        normalized_entropy(np.ones(3), np.zeros(3))
