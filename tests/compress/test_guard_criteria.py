"""A criterion decides by its bounds and its units, and says how many rows would do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.compress.guard_criteria import (
    NEVER,
    Criterion,
    Units,
    independent_units,
    query_units,
    rows_to_decide,
)

AUC = Criterion("AUC fell", "AUC may have fallen", 0.0, -0.0005, 0.0005, 0.001, 0.975)


@given(st.floats(-1, 1) | st.just(float("nan")), st.floats(0, 1), st.integers(0, 10**7))
def test_what_is_kept_is_never_lost(loss: float, reach: float, units: int) -> None:
    found = replace(AUC, loss=loss, low=loss - reach, high=loss + reach, units=Units(units, "rows"))
    assert not (found.kept and found.lost)
    if np.isnan(loss):
        assert not found.kept
        assert not found.lost


def test_units_needed_exclude_the_margin_as_a_rare_event() -> None:
    assert AUC.units_needed == 3842
    assert replace(AUC, loss=-0.01).units_needed == 3842, "a gain elsewhere buys nothing"
    assert replace(AUC, loss=0.0005).units_needed == 4 * 3842 - 2
    assert replace(AUC, loss=0.001).units_needed == NEVER
    # Seeing none of n harmed with a chance of exp(-n m) is what binds at high confidence.
    assert replace(AUC, confidence=0.9).units_needed == pytest.approx(np.log(10) / 0.001, abs=1)


def test_single_rows_count_by_the_rarer_class_and_whole_queries_by_their_worth() -> None:
    labels = np.tile([1.0, 0, 0, 0, 0], 200)
    assert independent_units(labels, None, 0.8) == Units(200, "rows of the rarer class")
    alone = independent_units(labels, np.arange(1000), 0.8)
    assert alone.count == 200
    queries = independent_units(labels, np.arange(1000) // 20, 1.0)
    assert queries.count == pytest.approx(50)
    assert queries.name == "queries (by their worth)"
    unequal = independent_units(labels, np.minimum(np.arange(1000) // 20, 25), 1.0)
    assert unequal.count < 5


def test_queries_that_can_lose_little_are_worth_more() -> None:
    assert query_units(np.full(100, 1.0)).count == pytest.approx(100)
    assert query_units(np.full(100, 0.25)).count == pytest.approx(400)
    assert query_units(np.array([1.0] * 50 + [0.0] * 50)).count == pytest.approx(100)
    assert query_units(np.zeros(9)).count == NEVER


def test_rows_grow_with_the_square_of_what_is_missing() -> None:
    near = rows_to_decide([replace(AUC, high=0.002, low=-0.002)], 1000, 0.8, 100)
    far = rows_to_decide([replace(AUC, high=0.004, low=-0.004)], 1000, 0.8, 100)
    assert near is not None
    assert far is not None
    assert far == pytest.approx(4 * near, rel=0.01)
    assert near == pytest.approx(1000 * (0.002 / 1.96 * (1.96 + 0.8416) / 0.001) ** 2, rel=0.01)


def test_two_open_criteria_ask_for_more_rows_than_one() -> None:
    still = replace(AUC, high=0.002, low=-0.002)
    one, two = (rows_to_decide([still] * n, 1000, 0.8, 100) for n in (1, 2))
    assert one is not None
    assert two is not None
    assert two > one


def test_a_proven_loss_ahead_decides_first() -> None:
    lost = replace(AUC, loss=0.01, low=0.0005, high=0.0195)
    slow = replace(AUC, high=1.0, low=-1.0)
    both, alone = (rows_to_decide(c, 1000, 0.8, 100) for c in ([lost, slow], [lost]))
    assert both == alone


def test_what_has_no_value_promises_no_number_of_rows() -> None:
    broken = replace(AUC, loss=float("nan"), high=float("nan"))
    assert rows_to_decide([broken], 1000, 0.8, 100) is None
    assert rows_to_decide([], 1000, 0.8, 5000) == 5000
