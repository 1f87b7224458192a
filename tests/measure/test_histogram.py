"""Percentiles from buckets are those of the values within the stated error."""

from __future__ import annotations

from math import inf, isinf, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headway.core import DataError
from headway.measure import RELATIVE_ERROR, LatencyHistogram, estimate_percentiles

PERCENTILES = (1.0, 50.0, 95.0, 99.0, 99.9)
durations = st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 10**10), st.integers(0, 600))
samples = st.lists(durations, min_size=1, max_size=80)
missing = st.integers(0, 5)


def filled(values: list[int], unanswered: int = 0) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add_one(value)
    histogram.add_unanswered(unanswered)
    return histogram


def test_the_error_is_within_half_a_per_cent() -> None:
    assert RELATIVE_ERROR <= 0.005


@given(samples, missing)
def test_percentiles_lie_within_the_error_of_the_exact_ones(
    values: list[int], unanswered: int
) -> None:
    exact = estimate_percentiles(np.array([*values, *[inf] * unanswered]), PERCENTILES)
    found = filled(values, unanswered).percentiles(PERCENTILES)
    for ours, true in zip(found, exact, strict=True):
        if isinf(true.value_ms):
            assert isinf(ours.value_ms)
        else:
            assert abs(ours.value_ms - true.value_ms) <= RELATIVE_ERROR * true.value_ms * (1 + 1e-9)
        # The edges are whole nanoseconds; float64 holds no more than 53 bits of them.
        assert ours.low_ms <= true.low_ms * (1 + 1e-12)
        assert ours.high_ms >= true.high_ms * (1 - 1e-12)


@given(samples, samples, missing)
def test_merging_equals_adding_together(a: list[int], b: list[int], unanswered: int) -> None:
    merged = filled(a, unanswered)
    merged.merge(filled(b, 2))
    assert merged == filled(a + b, unanswered + 2)
    assert len(merged) == len(a) + len(b) + unanswered + 2


@given(samples)
def test_an_array_is_counted_as_its_values_one_by_one(values: list[int]) -> None:
    histogram = LatencyHistogram()
    histogram.add(np.array(values, np.int64))
    assert histogram == filled(values)


@given(arrays(np.float64, 30, elements=st.floats(0, 1e12, width=64)))
def test_fractions_of_a_nanosecond_are_cut(
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    histogram = LatencyHistogram()
    histogram.add(values)
    assert histogram == filled([int(v) for v in values])


@given(samples, missing)
def test_json_brings_back_the_same_counts(values: list[int], unanswered: int) -> None:
    histogram = filled(values, unanswered)
    assert LatencyHistogram.from_json(histogram.to_json()) == histogram


def test_infinite_durations_are_unanswered_and_rank_last() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.array([100.0] * 95 + [inf] * 5))
    assert (len(histogram), histogram.unanswered) == (100, 5)
    p95, p96 = histogram.percentiles((95.0, 96.0))
    assert p95.value_ms == 100e-6
    assert isinf(p95.high_ms)
    assert isinf(p96.value_ms)
    assert histogram.mean_ms() == pytest.approx(100e-6)


def test_memory_does_not_grow_with_what_is_counted() -> None:
    histogram = filled([1])
    before = len(histogram._counts)
    histogram.add(np.random.default_rng(1).exponential(5e6, 200_000))
    assert len(histogram._counts) == before < 8000


def test_the_mean_of_an_exponential_is_found() -> None:
    values = np.random.default_rng(2).exponential(5e6, 100_000)
    histogram = LatencyHistogram()
    histogram.add(values)
    assert histogram.mean_ms() == pytest.approx(values.mean() / 1e6, rel=RELATIVE_ERROR)
    assert isnan(LatencyHistogram().mean_ms())


@pytest.mark.parametrize("value", [-1, 2**63, -(2**70), 2**80])
def test_what_is_no_duration_is_refused_one_by_one(value: int) -> None:
    histogram = LatencyHistogram()
    with pytest.raises(DataError, match="between 0 and 2\\^63"):
        histogram.add_one(value)
    assert len(histogram) == 0


@pytest.mark.parametrize("value", [-1.0, 2.0**63, -inf, nan])
def test_what_is_no_duration_is_refused_in_an_array(value: float) -> None:
    histogram = LatencyHistogram()
    with pytest.raises(DataError, match="between 0 and 2\\^63"):
        histogram.add(np.array([5.0, value]))
    assert len(histogram) == 0


def test_an_empty_histogram_has_no_percentiles() -> None:
    with pytest.raises(DataError, match="empty"):
        LatencyHistogram().percentiles()
    with pytest.raises(DataError, match="not negative"):
        LatencyHistogram().add_unanswered(-1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{}", "not a latency histogram"),
        (b'{"bits":7,"unanswered":0,"buckets":[[9999,1]]}', "not a latency histogram"),
        (b'{"bits":7,"unanswered":0,"buckets":[[3,-1]]}', "not a latency histogram"),
        (b'{"bits":6,"unanswered":0,"buckets":[]}', "6 bits"),
    ],
)
def test_json_of_something_else_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        LatencyHistogram.from_json(text)


def test_a_histogram_equals_nothing_else() -> None:
    assert LatencyHistogram() != 3
