"""Tables in narrower numbers: named, bounded, and never larger than they were."""

from __future__ import annotations

import numpy as np
import pytest

from headway.bundle import TableFormat, unpack_rows
from headway.compress import quantize_tables
from headway.core import UsageError


@pytest.mark.parametrize(("form", "most"), [("int8", 0.02), ("int4", 0.4), ("bf16", 0.02)])
def test_tables_keep_their_names_and_nearly_their_values(form: TableFormat, most: float) -> None:
    rng = np.random.default_rng(9)
    tables = {n: rng.normal(size=(5, 4)).astype(np.float32) for n in ("a", "b")}
    parts = quantize_tables(tables, form)
    assert list(parts) == ["a", "b"]
    for name, part in parts.items():
        assert part.format == form
        np.testing.assert_allclose(unpack_rows(part.records, form), tables[name], atol=most)


def test_the_broken_table_is_named() -> None:
    tables = {n: np.zeros((5, 4), np.float32) for n in ("a", "b")}
    tables["b"][2, 2] = np.nan
    with pytest.raises(UsageError, match=r"table 'b'.*row 2"):
        quantize_tables(tables, "f32")
    with pytest.raises(UsageError, match=r"table 'b'.*float32 \[rows, dim\]"):
        quantize_tables({"b": np.zeros(3, np.float32)}, "int8")


@pytest.mark.parametrize(
    ("form", "dim", "stored"),
    [("int8", 2, "f32"), ("int8", 3, "int8"), ("int4", 1, "f32"), ("int4", 2, "int4")],
)
def test_a_table_too_narrow_to_gain_stays_float32(
    form: TableFormat, dim: int, stored: TableFormat
) -> None:
    part = quantize_tables({"t": np.ones((7, dim), np.float32)}, form)["t"]
    assert part.format == stored
    assert part.records.nbytes <= 7 * dim * 4
