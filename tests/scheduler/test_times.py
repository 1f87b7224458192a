"""Predicted service times: given ones bend to what is seen, others are learnt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core import Knots
from headway.scheduler import ServiceTimes

KNOTS = ((10, 1_000), (20, 1_500), (100, 9_500))


@st.composite
def rising_knots(draw: st.DrawFn) -> Knots:
    rows = draw(st.lists(st.integers(1, 9_000), min_size=1, max_size=6, unique=True))
    times = draw(st.lists(st.integers(1, 10**10), min_size=len(rows), max_size=len(rows)))
    return tuple(zip(sorted(rows), sorted(times), strict=True))


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [(0, 0), (1, 1_000), (10, 1_000), (15, 1_250), (20, 1_500), (60, 5_500), (100, 9_500)],
)
def test_between_knots_time_follows_a_line(candidates: int, expected: float) -> None:
    assert ServiceTimes(KNOTS).of(candidates) == expected


def test_beyond_the_last_knot_the_last_line_goes_on() -> None:
    assert ServiceTimes(KNOTS).of(200) == 9_500 + 100 * 100


def test_beyond_the_last_knot_time_never_shrinks() -> None:
    assert ServiceTimes(((10, 100), (20, 50))).of(10_000) == 50


def test_a_single_knot_is_a_line_through_zero() -> None:
    times = ServiceTimes(((100, 50),))
    assert [times.of(n) for n in (0, 1, 100, 101, 10_000)] == [0, 0.5, 50, 50.5, 5_000]


def test_knots_far_apart_take_no_memory_and_hold_in_between() -> None:
    times = ServiceTimes(((1, 1_000), (10**9, 10**9 + 999)))
    assert times.of(5 * 10**8) == pytest.approx(5 * 10**8 + 999)
    assert len(times._table) < 5_000


@given(knots=rising_knots(), busy=st.integers(0, 10**10))
def test_more_candidates_are_never_predicted_to_take_less(knots: Knots, busy: int) -> None:
    times = ServiceTimes(knots)
    times.observe(5, busy)
    marks = {1, 2, 4_095, 4_096, 4_097, 20_000}
    marks |= {n + d for n, _ in knots for d in (-1, 0, 1) if n + d}
    found = [times.of(n) for n in sorted(marks)]
    assert all(b >= a * (1 - 1e-12) > 0 for a, b in pairwise(found))


@given(knots=rising_knots(), most=st.integers(1, 5_000))
def test_curve_holds_the_same_times(knots: Knots, most: int) -> None:
    times = ServiceTimes(knots)
    curve = times.curve(most)
    assert len(curve) == most + 1
    assert curve[most] == times.of(most)
    assert curve[most // 2] == times.of(most // 2)


@pytest.mark.parametrize("candidates", [10, 60, 500, 20_000])
@pytest.mark.parametrize("factor", [0.25, 3.0, 100.0])
def test_scale_follows_a_machine_of_another_speed(candidates: int, factor: float) -> None:
    times, promised = ServiceTimes(KNOTS), ServiceTimes(KNOTS).of(candidates)
    for _ in range(500):
        assert not times.observe(candidates, int(promised * factor))
    assert times.scale == pytest.approx(factor, rel=0.01)
    assert times.of(15) == pytest.approx(1_250 * factor, rel=0.01)


def test_one_outlier_moves_predictions_little() -> None:
    times = ServiceTimes(KNOTS)
    times.observe(10, 10**12)
    assert times.scale < 1.05


def test_nothing_scored_teaches_nothing() -> None:
    given, learning = ServiceTimes(KNOTS), ServiceTimes()
    for _ in range(100):
        assert not given.observe(0, 5_000)
        assert not learning.observe(0, 5_000)
    assert given.scale == 1.0
    assert not learning.known


def test_without_knots_a_line_is_learnt_from_finished_work() -> None:
    times = ServiceTimes()
    told = [times.observe(n, 2_000 + 30 * n) for n in list(range(1, 65)) * 4]
    assert not any(told[:15])
    assert times.known
    assert times.of(10) == pytest.approx(2_300, rel=0.01)
    assert times.of(1_000) == pytest.approx(32_000, rel=0.01)
    assert sum(told) < 5, "a line that stays is no news"


def test_a_learnt_line_follows_a_machine_that_became_slower() -> None:
    times = ServiceTimes()
    for n in list(range(1, 65)) * 4:
        times.observe(n, 2_000 + 30 * n)
    told = [times.observe(n, 8_000 + 90 * n) for n in list(range(1, 65)) * 40]
    assert any(told)
    assert times.of(100) == pytest.approx(17_000, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 4_000), st.integers(0, 10**9)), min_size=16, max_size=24))
def test_a_learnt_line_is_positive_and_never_falls(work: list[tuple[int, int]]) -> None:
    times = ServiceTimes()
    for candidates, busy in work:
        times.observe(candidates, busy)
    found = [times.of(n) for n in (1, 10, 4_000, 4_096, 5_000)]
    assert all(b >= a * (1 - 1e-9) > 0 for a, b in pairwise(found))


def test_a_chunk_without_its_query_tower_is_cheaper_and_each_further_tower_costs() -> None:
    times = ServiceTimes(KNOTS, tower_ns=400)
    whole = ServiceTimes(KNOTS).of(50)
    assert times.of(50) == whole
    assert times.of(50, towers=0) == whole - 400
    assert times.of(50, towers=3) == whole + 800


def test_work_of_several_queries_is_held_against_all_their_towers() -> None:
    times = ServiceTimes(KNOTS, tower_ns=400)
    promised = times.of(50, towers=3)
    for _ in range(200):
        times.observe(50, int(promised), towers=3)
    assert times.scale == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("knots", [((256, 1_000_000),), ((1, 900_000), (64, 4_000)), ()])
def test_a_query_tower_never_takes_more_than_the_shortest_chunk(knots: Knots) -> None:
    times = ServiceTimes(knots, tower_ns=10**400)
    assert times.tower_ns in (3_906, 4_000, 0)
    assert all(times.of(n, towers=0) >= 0 for n in (1, 8, 64, 256, 5_000))


def test_a_chunk_that_may_have_waited_for_its_tower_teaches_nothing() -> None:
    times = ServiceTimes(KNOTS, tower_ns=400)
    assert not times.observe(50, 10**9, towers=0)
    assert times.scale == 1.0
