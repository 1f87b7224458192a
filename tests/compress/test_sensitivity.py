"""What each part of a model changes when it alone is rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.compress import rounded_model

from headway.bundle import pack_table, unpack_rows
from headway.compress import Sensitivity, sensitivity
from headway.compress.quantize_tables import as_records, quantize_tables
from headway.compress.swap import Swap
from headway.core import Scope


@pytest.fixture(scope="module")
def found() -> tuple[Sensitivity, ...]:
    return sensitivity(rounded_model.lowered(), rounded_model.rows())


def test_every_table_that_gains_and_every_wide_product_is_told_worst_first(
    found: tuple[Sensitivity, ...],
) -> None:
    tables = [(one.name, one.precision) for one in found if one.part == "table"]
    assert sorted(tables) == [
        ("faint", "int4"),
        ("faint", "int8"),
        ("far", "int4"),
        ("far", "int8"),
    ]
    products = [one for one in found if one.part == "product"]
    assert {(one.scope, one.precision) for one in products} == {(Scope.CANDIDATE, "int8")}
    assert [one.error for one in found] == sorted((one.error for one in found), reverse=True)


def test_the_table_that_bears_no_rounding_stands_first(found: tuple[Sensitivity, ...]) -> None:
    by_name = {(one.name, one.precision): one for one in found}
    assert (found[0].name, found[0].precision) == ("far", "int4")
    assert by_name["far", "int4"].error > 5 * by_name["far", "int8"].error > 0
    assert by_name["faint", "int4"].error < 0.01
    assert by_name["far", "int4"].numbers == rounded_model.ROWS * rounded_model.DIM
    assert found[0].scope is None


def test_an_error_is_that_of_the_outputs_with_the_one_part_rounded(
    found: tuple[Sensitivity, ...],
) -> None:
    lowered, rows = rounded_model.lowered(), rounded_model.rows()
    model = rounded_model.Model()
    features = {name: np.asarray(column) for name, column in rows.flat().items()}
    wide = score(model, features)
    rounded = unpack_rows(pack_table(lowered.tables["far"], "int4"), "int4")
    model.far.data[:] = torch.from_numpy(rounded)
    change = np.sqrt(np.square(score(model, features) - wide).mean(axis=0)) / wide.std(axis=0)
    assert found[0].error == pytest.approx(change.max(), rel=1e-3)


def score(model: rounded_model.Model, features: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model({name: torch.from_numpy(v) for name, v in features.items()}))


def test_a_swap_leaves_no_trace() -> None:
    lowered, rows = rounded_model.lowered(), rounded_model.rows()
    exact, narrow = (
        as_records(quantize_tables(lowered.tables, form), rounded_model.SCHEMA)
        for form in ("f32", "int4")
    )
    swap = Swap(lowered, exact, rows)
    assert swap.change(narrow) > 0
    assert swap.change() == 0


def test_many_rows_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.compress.swap._MOST_ROWS", 50)
    lowered, rows = rounded_model.lowered(), rounded_model.rows()
    exact = as_records(quantize_tables(lowered.tables, "f32"), rounded_model.SCHEMA)
    assert len(Swap(lowered, exact, rows).rows) == 50
