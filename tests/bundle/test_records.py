"""Packing embedding vectors into records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from headway.bundle import TableFormat, pack_table, row_bytes, unpack_rows
from headway.core import UsageError

finite_tables = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)

small_tables = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-8, 8, width=16),
)


@given(finite_tables)
def test_f32_records_give_back_every_bit(values: np.ndarray) -> None:
    records = pack_table(values, "f32")
    assert records.shape == (len(values), row_bytes(values.shape[1], "f32"))
    np.testing.assert_array_equal(unpack_rows(records, "f32").view("u4"), values.view("u4"))


@given(finite_tables)
def test_int8_records_move_no_value_by_more_than_half_a_step(values: np.ndarray) -> None:
    records = pack_table(values, "int8")
    assert records.shape == (len(values), values.shape[1] + 8)
    wide = values.astype(np.float64)
    step = np.ptp(wide, axis=1, keepdims=True) / 255
    largest = np.abs(wide).max(axis=1, keepdims=True)
    error = np.abs(unpack_rows(records, "int8") - wide)
    # A float32 step below the smallest normal number has few bits left.
    assert (error <= 0.501 * step + 4e-7 * largest + 255 * 1.5e-45).all()


def plain_int4(values: np.ndarray) -> np.ndarray:
    """Return what codes from a row's smallest to its largest value give in an int4 record."""
    wide = values.astype(np.float64)
    low, high = wide.min(axis=1, keepdims=True), wide.max(axis=1, keepdims=True)
    scale = np.maximum((high - low) / 15, np.maximum(low / 24.5, -high / 24.4375))
    mantissa, exponent = np.frexp(np.where(scale > 0, scale, 1.0))
    scale = np.ldexp(np.rint(mantissa * 128) / 128, exponent)
    zero = np.clip(np.rint(-low / scale * 16) / 16, -24.5, 39.4375)
    return np.asarray((np.clip(np.rint(wide / scale + zero), 0, 15) - zero) * scale)


@given(st.one_of(finite_tables, small_tables))
@example(np.array([[6.8125, 5.7890625, 5.7890625, 5.7890625]], np.float32))
@settings(deadline=None)
def test_int4_records_have_no_larger_squared_error_than_the_whole_range(values: np.ndarray) -> None:
    dim = values.shape[1]
    records = pack_table(values, "int4")
    assert (
        records.shape == (len(values), row_bytes(dim, "int4")) == (len(values), (dim + 1) // 2 + 3)
    )
    wide = values.astype(np.float64)
    largest = np.abs(wide).max(axis=1)
    error = np.square(unpack_rows(records, "int4", dim) - wide).sum(axis=1)
    plain = np.square(plain_int4(values) - wide).sum(axis=1)
    # Errors are compared in float32; and what is smaller than 2**-115 may vanish.
    assert (error <= 1.001 * plain + dim * (np.square(1e-6 * largest) + 2.0**-230)).all()


@given(st.one_of(finite_tables, small_tables))
@settings(deadline=None)
def test_int4_records_are_off_by_half_a_step_in_the_mean(values: np.ndarray) -> None:
    wide = values.astype(np.float64)
    low, high = wide.min(axis=1), wide.max(axis=1)
    step = np.max([(high - low) / 15, low / 24.5, -high / 24.4375], axis=0)
    error = unpack_rows(pack_table(values, "int4"), "int4", values.shape[1]) - wide
    assert (np.sqrt(np.square(error).mean(axis=1)) <= 0.55 * step + 2.0**-115).all()


@pytest.mark.parametrize(("dim", "most"), [(16, 0.82), (32, 0.85), (64, 0.87)])
def test_the_search_takes_a_sixth_off_the_squared_error_of_normal_rows(
    dim: int, most: float
) -> None:
    values = np.random.default_rng(dim).standard_normal((500, dim), np.float32)
    step = np.ptp(values, axis=1, keepdims=True) / 15
    low = values.min(axis=1, keepdims=True)
    plain = np.rint((values - low) / step) * step + low
    found = unpack_rows(pack_table(values, "int4"), "int4")
    assert np.square(found - values).sum() < most * np.square(plain - values).sum()


def test_an_int4_table_of_32_columns_takes_at_most_0_15_of_its_size() -> None:
    assert row_bytes(32, "int4") / row_bytes(32, "f32") <= 0.15
    assert row_bytes(64, "int4") / row_bytes(64, "f32") <= 0.15


@given(st.floats(2.0**-100, 2.0**126, width=32), st.booleans(), st.integers(1, 9))
@settings(deadline=None)
def test_rows_of_one_value_survive_int4_nearly(value: float, below: bool, dim: int) -> None:
    values = np.full((2, dim), -value if below else value, np.float32)
    found = unpack_rows(pack_table(values, "int4"), "int4", dim)
    np.testing.assert_allclose(found, values, rtol=1 / 5000)


@given(st.integers(1, 9), st.sampled_from([0.0, -0.0]))
@settings(deadline=None)
def test_zeros_survive_int4_exactly(dim: int, zero: float) -> None:
    values = np.full((2, dim), zero, np.float32)
    values[1] = 3.0
    assert not unpack_rows(pack_table(values, "int4"), "int4", dim)[0].any()


@given(finite_tables)
def test_bf16_records_round_to_the_nearest_of_eight_bits(values: np.ndarray) -> None:
    records = pack_table(values, "bf16")
    assert records.shape == (len(values), row_bytes(values.shape[1], "bf16"))
    error = np.abs(unpack_rows(records, "bf16") - values.astype(np.float64))
    assert (error <= np.abs(values) * 2.0**-8 + 2.0**-134).all()
    ties = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8]], np.float32)
    even = unpack_rows(pack_table(ties, "bf16"), "bf16")
    assert even.tolist() == [[1.0, 1 + 2.0**-6]]


def test_a_value_beyond_bf16_is_refused() -> None:
    with pytest.raises(UsageError, match="bf16"):
        pack_table(np.array([[np.finfo(np.float32).max]], np.float32), "bf16")


@given(st.floats(-(2.0**126), 2.0**126, width=32), st.integers(1, 9))
def test_constant_rows_survive_int8_exactly(value: float, dim: int) -> None:
    values = np.full((3, dim), value, np.float32)
    np.testing.assert_array_equal(unpack_rows(pack_table(values, "int8"), "int8"), values)


def test_the_int8_record_is_codes_then_scale_then_bias() -> None:
    record = pack_table(np.array([[-1.0, 254.0, 0.0]], np.float32), "int8")[0]
    assert record[:3].tolist() == [0, 255, 1]
    assert record[3:].view("<f4").tolist() == [1.0, -1.0]


def test_the_int4_record_is_codes_then_a_tail_of_three_bytes() -> None:
    record = pack_table(np.array([[-1.0, 14.0, 0.0]], np.float32), "int4")[0]
    assert record[:2].tolist() == [0xF0, 0x01]  # the first of two codes below
    tail = int.from_bytes(record[2:].tobytes(), "little")
    assert tail >> 10 == np.float32(1.0).view("u4") >> 17
    assert (tail & 1023) / 16 - 24.5 == 1.0


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, form: TableFormat) -> None:
    values = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    whole = pack_table(values, form)
    vectors = unpack_rows(whole, form)
    monkeypatch.setattr("headway.bundle.records._BLOCK_VALUES", 12)
    np.testing.assert_array_equal(pack_table(values, form), whole)
    np.testing.assert_array_equal(pack_table(values[::2], form), whole[::2])
    np.testing.assert_array_equal(unpack_rows(whole, form), vectors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("table_format", ["f32", "bf16", "int8", "int4"])
def test_a_value_that_is_not_finite_is_refused_by_row(bad: float, table_format: str) -> None:
    values = np.zeros((5, 2), np.float32)
    values[3, 1] = bad
    with pytest.raises(UsageError, match="row 3"):
        pack_table(values, table_format)  # type: ignore[arg-type]


def test_a_row_wider_than_float32_is_refused() -> None:
    with pytest.raises(UsageError, match="spans"):
        pack_table(np.array([[-3e38, 3e38]], np.float32), "int8")


@pytest.mark.parametrize("row", [[-3e38, 3e38], [3e38, 3e38], [-9e37, 0.0]])
def test_a_value_beyond_int4_is_refused(row: list[float]) -> None:
    with pytest.raises(UsageError, match="more than int4 can express"):
        pack_table(np.array([row], np.float32), "int4")


def test_the_widest_row_of_int4_stays_finite() -> None:
    values = np.array([[-(2.0**126), 2.0**126, 0.0]], np.float32)
    assert np.isfinite(unpack_rows(pack_table(values, "int4"), "int4", 3)).all()


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros(3, "f4"), np.zeros((3, 0), "f4")])
def test_only_float32_matrices_are_tables(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="float32"):
        pack_table(bad, "f32")
