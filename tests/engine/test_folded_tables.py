from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.test_kernels import DIMS, FORMATS, Layout, Place, bags, looked_up, reference

from headway.bundle import Fold, TableFormat, pack_table, unpack_rows
from headway.core import (
    Bag,
    BundleError,
    Column,
    IdFeature,
    Pooling,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
)
from headway.engine import TableRecords
from headway.engine.tables import Gather

IDS = 60
ONE = Sparse(name="one", table="t", scope=Scope.CANDIDATE)
SUM = Bag(name="sum", table="t", scope=Scope.CANDIDATE, max_length=50)
MEAN = Bag(name="mean", table="t", scope=Scope.CANDIDATE, max_length=3, pooling=Pooling.MEAN)
POOLED: tuple[IdFeature, ...] = (ONE, SUM, MEAN)
LIST = Sequence(name="list", table="t", scope=Scope.CANDIDATE, max_length=4)


def gather_of(table: TableRecords, *features: IdFeature, ids: int = IDS) -> Gather:
    schema = Schema(features=features, tables=(Table(name="t", rows=ids, dim=table.dim),))
    inputs, places = ["embedded"], list[Place]()
    for feature in features:
        if isinstance(feature, Sequence):
            inputs += [f"sequence.{feature.name}", f"mask.{feature.name}"]
        else:
            places.append(Place(feature.name, "t", len(places) * table.dim, table.dim))
    layout = Layout(tuple(inputs), places, len(places) * table.dim)
    return Gather(schema, Scope.CANDIDATE, {"t": table}, layout)


def folded(
    rng: np.random.Generator, places: np.ndarray, form: TableFormat, dim: int
) -> TableRecords:
    values = rng.standard_normal((int(places.max()) + 1, dim)).astype(np.float32)
    return TableRecords(form, dim, pack_table(values, form), Fold.of(places))


@given(
    seed=st.integers(0, 2**32 - 1),
    dim=DIMS,
    form=st.sampled_from(FORMATS),
    stored=st.sampled_from([1, 2, 7, 20, 59, 60, 300, 70_000]),
    own=st.integers(0, IDS),
    resident=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_folded_lookups_equal_lookups_in_the_table_written_out(
    seed: int, dim: int, form: TableFormat, stored: int, own: int, resident: bool
) -> None:
    rng = np.random.default_rng(seed)
    places = rng.integers(0, stored, IDS)
    places[:own] = np.arange(own)
    if stored == 2:  # one record for all that have none of their own
        places[own:] = own
    table = folded(rng, places, form, dim)
    whole = unpack_rows(table.records, form, dim)[places]
    gather = gather_of(table.resident() if resident else table, *POOLED, LIST)
    parts: list[tuple[dict[str, Column], int, int]] = []
    for start, stop, length in ((0, 9, 9), (3, 5, 8), (2, 2, 4)):
        columns: dict[str, Column] = {
            "one": rng.integers(0, IDS, length),
            **{name: bags(rng, length, IDS, 6) for name in ("sum", "mean", "list")},
        }
        parts.append((columns, start, stop))
    found = looked_up(gather, parts, 11)
    row = 0
    for columns, start, stop in parts:
        taken = slice(row, row + stop - start)
        for place, feature in enumerate(POOLED):
            column = columns[feature.name]
            if isinstance(feature, Bag) and isinstance(column, Ragged):
                column = column.last(feature.max_length)
            wanted = reference(feature, column, whole)[start:stop]
            got = found["embedded"][taken, place * dim : (place + 1) * dim]
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        lists = columns["list"]
        assert isinstance(lists, Ragged)
        for i, r in enumerate(range(start, stop), row):
            own_ids = lists.values[lists.offsets[r] : lists.offsets[r + 1]][-4:]
            filled = np.append(own_ids, np.zeros(4 - len(own_ids), np.int64))
            np.testing.assert_allclose(found["sequence.list"][i], whole[filled], atol=1e-5)
            assert found["mask.list"][i].sum() == len(own_ids)
        row += stop - start


@pytest.mark.parametrize("wrong", [IDS, -1, 2**62, -(2**62)])
@pytest.mark.parametrize("feature", [ONE, SUM, LIST])
def test_ids_beyond_a_folded_table_are_refused_by_name(feature: IdFeature, wrong: int) -> None:
    gather = gather_of(folded(np.random.default_rng(0), np.arange(IDS) % 7, "int8", 8), feature)
    ids = np.array([1, wrong, 2])
    column: Column = ids if feature is ONE else Ragged(ids, np.array([0, 1, 2, 3]))
    with pytest.raises(QueryError, match=feature.name):
        looked_up(gather, [({feature.name: column}, 0, 3)], 3)


@pytest.mark.parametrize(
    "offsets", [[0, 5, 3, 3], [0, 1, 2, 4], [2, 1, 2, 3], [-1, 1, 2, 3], [0, -9, 2, 3]]
)
def test_bad_offsets_into_a_folded_table_are_refused(offsets: list[int]) -> None:
    gather = gather_of(folded(np.random.default_rng(0), np.arange(IDS) % 7, "f32", 8), SUM)
    column = Ragged(np.array([1, 2, 3]), np.array(offsets))
    with pytest.raises(QueryError, match="'sum'"):
        looked_up(gather, [({"sum": column}, 0, 3)], 3)


def test_a_fold_that_does_not_fit_its_table_is_refused_by_name() -> None:
    table = folded(np.random.default_rng(0), np.arange(IDS) % 7, "f32", 8)
    with pytest.raises(BundleError, match=r"'t': its fold is of 60 ids, the schema says 61"):
        gather_of(table, ONE, ids=61)
    short = TableRecords("f32", 8, table.records[:6], table.fold)
    with pytest.raises(BundleError, match=r"'t': its fold leads to record 6, it has only 6"):
        gather_of(short, ONE)
