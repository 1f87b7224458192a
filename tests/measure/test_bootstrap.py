"""The paired bootstrap agrees with its definition and with DeLong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.measure.test_quality import labelled

from headway.core import DataError
from headway.measure import auc, bootstrap, bootstrap_pair, delong_paired


@given(st.integers(20, 80), st.integers(0, 9999), st.integers(1, 30), st.booleans())
def test_a_resample_is_the_auc_of_the_rows_it_drew(
    rows: int, seed: int, levels: int, grouped: bool
) -> None:
    labels, a, b = labelled(rows, seed, levels)
    groups = np.random.default_rng(seed).integers(5, size=rows) if grouped else np.arange(rows)
    found = bootstrap_pair(labels, (a, b), b - a, np.random.default_rng(1), rounds=3, groups=groups)
    ids, place = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(1).integers(len(ids), size=(3, len(ids)), dtype=np.int32)
    for index in range(3):
        taken = np.concatenate([np.flatnonzero(place == group) for group in drawn[index]])
        assert found.means[index] == pytest.approx((b - a)[taken].mean())
        if 0 < labels[taken].sum() < len(taken):
            delta = auc(labels[taken], b[taken]) - auc(labels[taken], a[taken])
            assert found.aucs[index] == pytest.approx(delta, abs=1e-12)
        else:
            assert np.isnan(found.aucs[index])


@pytest.mark.parametrize("size", [1, 10])
def test_its_interval_is_about_that_of_delong(size: int) -> None:
    rng = np.random.default_rng(3)
    groups = np.arange(4000) // size
    labels = rng.random(4000) < 0.3
    a = labels + rng.normal(size=4000)
    b = a + 0.3 * rng.normal(size=4000 // size)[groups] + 0.1 * rng.normal(size=4000)
    expected = delong_paired(labels, a, b, groups)
    found = bootstrap_pair(labels, (a, b), b - a, rng, groups=groups).auc()
    assert found.mean == pytest.approx(expected.delta)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.08)
    slack = 0.25 * expected.standard_error
    assert (found.low, found.high) == pytest.approx(expected.interval(), abs=slack)


def test_single_rows_are_the_groups_of_one_row() -> None:
    labels, a, b = labelled(600, 4, 50)
    alone = bootstrap_pair(labels, (a, b), b - a, np.random.default_rng(0), rounds=4000)
    single = bootstrap_pair(
        labels, (a, b), b - a, np.random.default_rng(0), rounds=4000, groups=np.arange(600)
    )
    assert alone.auc().standard_error == pytest.approx(single.auc().standard_error, rel=0.06)
    assert alone.mean().low == pytest.approx(single.mean().low, rel=0.06)


def test_the_same_order_never_differs() -> None:
    labels, a, _ = labelled(300, 5, 9)
    found = bootstrap_pair(labels, (a, 2 * a + 1), a, np.random.default_rng(0), rounds=200)
    assert not found.aucs.any()


def test_many_rows_get_fewer_rounds_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_ROWS_IN_ALL", 1000 * 300)
    labels, a, b = labelled(1000, 6, 90)
    found = bootstrap_pair(labels, (a, b), b - a, np.random.default_rng(0), rounds=5000)
    assert found.rounds == 300
    monkeypatch.setattr(bootstrap, "_ROWS_IN_ALL", 1)
    found = bootstrap_pair(labels, (a, b), b - a, np.random.default_rng(0), rounds=5000)
    assert found.rounds == 200


def test_rows_that_cannot_be_resampled_are_refused() -> None:
    rng = np.random.default_rng(0)
    labels, a, b = labelled(50, 7, 9)
    with pytest.raises(DataError, match="groups have shape"):
        bootstrap_pair(labels, (a, b), b - a, rng, groups=np.zeros(3))
    with pytest.raises(DataError, match="not finite"):
        bootstrap_pair(labels, (a, b), np.full(50, np.nan), rng)
    with pytest.raises(DataError, match="both classes"):
        bootstrap_pair(np.ones(50), (a, b), b - a, rng)
    one = bootstrap_pair(labels, (a, b), b - a, rng, rounds=20, groups=labels)
    with pytest.raises(DataError, match="too few rows of one"):
        type(one)(0.0, 0.0, np.full(9, np.nan), one.means).auc()
