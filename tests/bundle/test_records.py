"""Packing embedding vectors into records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from headway.bundle import pack_table, row_bytes, unpack_rows
from headway.core import UsageError

finite_tables = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
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


@given(finite_tables)
def test_int4_records_move_no_value_by_more_than_half_a_step(values: np.ndarray) -> None:
    dim = values.shape[1]
    records = pack_table(values, "int4")
    assert (
        records.shape == (len(values), row_bytes(dim, "int4")) == (len(values), (dim + 1) // 2 + 8)
    )
    wide = values.astype(np.float64)
    step = np.ptp(wide, axis=1, keepdims=True) / 15
    largest = np.abs(wide).max(axis=1, keepdims=True)
    error = np.abs(unpack_rows(records, "int4", dim) - wide)
    assert (error <= 0.501 * step + 4e-7 * largest + 15 * 1.5e-45).all()


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


def test_the_int4_record_has_the_first_of_two_codes_below() -> None:
    record = pack_table(np.array([[-1.0, 14.0, 0.0]], np.float32), "int4")[0]
    assert record[:2].tolist() == [0xF0, 0x01]
    assert record[2:].view("<f4").tolist() == [1.0, -1.0]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)
    whole = pack_table(values, "int8")
    monkeypatch.setattr("headway.bundle.records._BLOCK_VALUES", 12)
    np.testing.assert_array_equal(pack_table(values, "int8"), whole)
    np.testing.assert_array_equal(pack_table(values[::2], "int8"), whole[::2])


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


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros(3, "f4"), np.zeros((3, 0), "f4")])
def test_only_float32_matrices_are_tables(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="float32"):
        pack_table(bad, "f32")
