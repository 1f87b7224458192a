"""Raw values become the same ids and numbers everywhere, and bad ones are pointed at."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import DataError
from headway.data import Buckets, BucketSettings, Hashing, Identity, Scaling, VocabularySettings
from headway.data.encoders import (
    BadValueError,
    fit_encoder,
    fit_scaling,
    read_numbers,
    read_tokens,
)

TOKENS = ["a", "b", "ü", "68fd1e64", "", "0"]


def test_vocabulary_gives_frequent_tokens_low_ids_and_all_others_zero() -> None:
    encoder = fit_encoder(VocabularySettings(min_count=2), [["b", "a", "b"], ["c", "a", "b", None]])
    assert encoder.rows == 3
    assert encoder.encode(["b", "a", "c", "unseen", None, ""]).tolist() == [1, 2, 0, 0, 0, 0]


def test_vocabulary_keeps_the_most_frequent_when_its_size_is_limited() -> None:
    encoder = fit_encoder(VocabularySettings(max_size=1), [["b", "a", "b"]])
    assert encoder.encode(["b", "a"]).tolist() == [1, 0]


def test_whole_numbers_and_their_digits_are_one_token() -> None:
    assert list(read_tokens([24, 24.0, "24", -3, None])) == ["24", "24", "24", "-3", ""]


@pytest.mark.parametrize("value", [True, 1.5, float("nan"), b"x", ["x"], {}, 2**70, "\ud800"])
def test_what_is_not_a_token_is_pointed_at(value: object) -> None:
    with pytest.raises(BadValueError) as caught:
        read_tokens(["fine", "", value, "fine"])
    assert caught.value.position == 2


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), 10**400, [1]])
def test_what_is_not_a_number_is_pointed_at(value: object) -> None:
    with pytest.raises(BadValueError) as caught:
        read_numbers([1, None, value, 2.5])
    assert caught.value.position == 2
    assert len(str(caught.value)) < 120


def test_hashes_do_not_change_between_processes_or_releases() -> None:
    code = (
        f"from headway.data import Hashing;print(Hashing(buckets=1000).encode({TOKENS!r}).tolist())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    here = Hashing(buckets=1000).encode(TOKENS).tolist()
    assert here == [int(i) for i in other.strip("[]\n").split(",")]
    assert here == PINNED


PINNED = [775, 328, 969, 645, 0, 327]


def test_hashing_spreads_tokens_over_its_buckets_and_keeps_zero_for_missing() -> None:
    ids = Hashing(buckets=100).encode([f"{i:08x}" for i in range(10_000)])
    counts = np.bincount(ids, minlength=101)
    assert counts[0] == 0
    assert len(counts) == 101
    # 100 expected in each with deviation 10: six deviations leave room for no accident.
    assert counts[1:].min() > 40
    assert counts[1:].max() < 160


@settings(deadline=None)
@given(st.integers(0, 9) | st.integers(0, 9).map(str))
def test_identity_takes_row_numbers_as_they_are(value: int | str) -> None:
    assert Identity(rows=10).encode([value]).tolist() == [int(value)]


@pytest.mark.parametrize("value", [10, -1, "10", "-1", "x", None, "", "²", "9" * 40])
def test_identity_refuses_what_is_no_row(value: object) -> None:
    with pytest.raises(BadValueError, match="is not a row number from 0 to 9"):
        Identity(rows=10).encode([value])


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(2, 9))
def test_buckets_rise_with_the_value_and_leave_zero_to_missing(
    values: list[float], count: int
) -> None:
    encoder = fit_encoder(BucketSettings(count=count), [values])
    ids = encoder.encode([*sorted(values), None]).tolist()
    assert ids == [*sorted(ids[:-1]), 0]
    assert 1 <= min(ids[:-1]) <= max(ids[:-1]) < encoder.rows <= count + 1


def test_buckets_of_distinct_values_are_equally_full() -> None:
    encoder = fit_encoder(BucketSettings(count=4), [list(range(100))])
    counts = np.bincount(encoder.encode(list(range(100))))
    assert counts[1:].tolist() == [25, 25, 25, 25]


def test_buckets_need_a_number() -> None:
    with pytest.raises(DataError, match="no number"):
        fit_encoder(BucketSettings(count=4), [[None]])


def test_an_edge_belongs_to_the_bucket_above() -> None:
    assert Buckets(edges=(1.0, 2.0)).encode([0.9, 1, 1.9, 2]).tolist() == [1, 2, 2, 3]


def test_log_takes_negative_numbers_as_zero_and_fills_gaps_first() -> None:
    out = Scaling(log=True, fill=np.e - 1).encode([-3, 0, None])
    assert out.tolist() == pytest.approx([0, 0, 1])
    assert out.dtype == np.float32


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30))
def test_standardised_train_values_have_mean_zero(values: list[float]) -> None:
    scaling = fit_scaling(Scaling(log=True), values, standardise=True)
    out = scaling.encode(values)
    assert abs(out.mean()) < 1e-3
    assert scaling.std > 0


def test_a_constant_column_is_shifted_and_not_divided_by_rounding_errors() -> None:
    scaling = fit_scaling(Scaling(log=True), [217.375] * 3, standardise=True)
    assert scaling.std == 1
    assert np.abs(scaling.encode([217.375])).max() < 1e-6


def test_a_number_too_large_for_float32_is_pointed_at() -> None:
    with pytest.raises(BadValueError, match="too large") as caught:
        Scaling().encode([1.0, 1e300])
    assert caught.value.position == 1
