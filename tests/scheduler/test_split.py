"""The choice of the split size: fine while workers idle, coarse while they do not."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.scheduler import ServiceTimes
from headway.scheduler.split import (
    Choice,
    Split,
    largest_useful,
    splits_for,
    tails_ns,
)

SIZES = np.minimum(1_024, np.random.default_rng(5).lognormal(4.5, 1.0, 512) + 1).astype(int)
CURVE = ServiceTimes(((1, 200_000), (64, 600_000), (1_024, 7_000_000))).curve(1_024)
SPLITS = splits_for(SIZES.tolist(), CURVE, 1_024)
CHEAPEST = min(s.ns_per_candidate for s in SPLITS)


def tail_ns(split: Split, rate: float, workers: int) -> float:
    return float(tails_ns([split], np.array([rate]), workers)[0, 0])


def chosen(load: float, workers: int, present: int | None = None) -> int:
    """Return the split size at a load, as a share of what the cheapest split can bear."""
    rate = load * workers / CHEAPEST
    return Choice(SPLITS, workers).at(rate, present).size


@pytest.mark.parametrize("workers", [4, 8, 40])
def test_splits_are_finer_at_low_load_than_at_high(workers: int) -> None:
    assert chosen(0.05, workers) < chosen(0.9, workers)


@pytest.mark.parametrize("load", [0.05, 0.3])
def test_two_idle_workers_share_the_largest_query_and_cut_no_finer(load: float) -> None:
    assert SIZES.max() / 2 <= chosen(load, 2) < SIZES.max()


def test_many_idle_workers_are_used_more_than_two() -> None:
    assert chosen(0.05, 40) < chosen(0.05, 2)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("load", [1.0, 3.0, 1_000.0])
def test_overload_is_met_with_the_least_work_per_candidate(load: float, workers: int) -> None:
    found = chosen(load, workers)
    assert next(s for s in SPLITS if s.size == found).ns_per_candidate == CHEAPEST


def test_without_load_one_alone_is_as_quick_as_it_can_be() -> None:
    found = Choice(SPLITS, 4).at(0.0)
    assert tail_ns(found, 0.0, 4) == min(tail_ns(s, 0.0, 4) for s in SPLITS)


@given(
    st.lists(st.integers(1, 5_000), min_size=1, max_size=50),
    st.integers(1, 1_024),
)
def test_no_split_is_above_the_largest_useful(sizes: list[int], largest: int) -> None:
    splits = splits_for(sizes, CURVE, largest)
    assert [s.size for s in splits] == sorted({s.size for s in splits})
    assert splits[-1].size == largest
    assert all(s.chunks >= 1 and s.spread >= 0 and s.ns_per_candidate > 0 for s in splits)
    for rate in (0.0, 1e-6, 1e-3, 1e9):
        assert Choice(splits, 2).at(rate) in splits


def test_a_split_describes_the_chunks_that_it_makes() -> None:
    linear = [10.0 * n for n in range(101)]
    split = next(s for s in splits_for([100, 50, 10], linear, 100) if s.size == 48)
    # 100 is cut into three of 34, 50 into two of 25.
    assert split.chunks == pytest.approx(6 / 3)
    assert split.ns_per_candidate == pytest.approx((3 * 340 + 2 * 250 + 100) / 160)
    assert split.alone_ns[-1] == (340.0, 3)


def one(size: int, ns: float) -> Split:
    return Split(size, 1.0, ns / 100, ns, 0.0, ((ns, 1),))


def test_the_present_split_stays_while_another_is_hardly_better() -> None:
    splits = [one(10, 1_000.0), one(20, 990.0), one(30, 930.0)]
    assert Choice(splits[:2], 2).at(0.0, present=10) is splits[0]
    assert Choice(splits[:2], 2).at(0.0) is splits[1]
    assert Choice(splits, 2).at(0.0, present=10) is splits[2]


def test_the_present_split_goes_when_it_cannot_bear_the_load() -> None:
    splits = [one(10, 1_010.0), one(20, 1_000.0)]
    rate = 2 * 0.965 / 10.0
    assert tail_ns(splits[0], rate, 2) == inf
    assert Choice(splits, 2).at(rate, present=10) is splits[1]


def test_a_present_split_that_is_no_more_offered_does_not_matter() -> None:
    assert chosen(0.5, 8, present=77) == chosen(0.5, 8)


@given(st.lists(st.floats(0.3, 0.34), min_size=2, max_size=60))
def test_a_load_that_wavers_does_not_make_the_split_flap(loads: list[float]) -> None:
    # However often the load rises and falls, hardly any size is worth a change.
    size, changes = chosen(loads[0], 8), 0
    for load in loads:
        following = chosen(load, 8, size)
        changes, size = changes + (following != size), following
    assert changes <= 1


def test_where_time_grows_faster_than_candidates_small_chunks_are_the_largest_useful() -> None:
    curve = [1_000.0 + 10 * n + n * n for n in range(1_025)]
    # The cheapest has sqrt(1000) candidates; twice that is a fifth dearer.
    assert 32 <= largest_useful(curve, inf, 1_024) < 64


def test_where_batches_pay_the_largest_fits_into_the_limit() -> None:
    curve = [1_000.0 + 10 * n for n in range(1_025)]
    assert largest_useful(curve, inf, 1_024) == 1_024
    assert largest_useful(curve, 3_000.0, 1_024) == 200


def test_where_nothing_fits_into_the_limit_chunks_are_small_but_exist() -> None:
    assert largest_useful([0.0, *[5_000.0] * 100], 10.0, 100) == 8
    assert largest_useful([0.0, *[5_000.0] * 100], 10.0, 3) == 3


def test_a_split_is_cheaper_where_its_chunks_share_a_query_tower() -> None:
    tower = 150_000
    plain = {s.size: s for s in SPLITS}
    shared = {s.size: s for s in splits_for(SIZES.tolist(), CURVE, 1_024, tower)}
    for size, split in shared.items():
        saved = plain[size].ns_per_candidate - split.ns_per_candidate
        assert saved == pytest.approx(
            tower * (split.chunks - 1) * len(SIZES) / SIZES.sum(), rel=0.02
        )
    # All work shrinks, so a load bears a finer split.
    load = 0.6 / min(s.ns_per_candidate for s in SPLITS)
    fine = Choice(tuple(shared.values()), 8).at(8 * load).size
    assert fine <= Choice(SPLITS, 8).at(8 * load).size
