"""Looked-up rows equal a plain NumPy reference, whatever the table, ids and chunk."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    pad_sequence,
)
from headway.engine.tables import Gather, TableRecords

Format = Literal["f32", "int8"]


class Place:
    def __init__(self, feature: str, table: str, start: int, width: int) -> None:
        self.feature, self.table, self.start, self.width = feature, table, start, width


class Layout:
    def __init__(self, inputs: tuple[str, ...], lookups: list[Place], width: int) -> None:
        self.inputs, self.lookups, self.embedded_width = inputs, lookups, width
        self.outputs = ("output",)


def records(rng: np.random.Generator, rows: int, dim: int, form: Format) -> TableRecords:
    if form == "f32":
        return TableRecords.from_f32(rng.standard_normal((rows, dim)).astype(np.float32))
    raw = rng.integers(0, 256, (rows, dim), dtype=np.uint8)
    extra = rng.standard_normal((rows, 2)).astype(np.float32) * np.float32(0.02)
    return TableRecords("int8", dim, np.hstack([raw, extra.view(np.uint8)]))


def dequantized(table: TableRecords) -> NDArray[np.float32]:
    if table.format == "f32":
        return table.records.view(np.float32)
    extra = np.ascontiguousarray(table.records[:, table.dim :]).view(np.float32)
    return table.records[:, : table.dim] * extra[:, :1] + extra[:, 1:]


def reference(feature: IdFeature, column: Column, values: NDArray[np.float32]) -> NDArray[Any]:
    if not isinstance(column, Ragged):
        return values[column]
    out = np.zeros((len(column), values.shape[1]), np.float64)
    for row in range(len(column)):
        ids = column.values[column.offsets[row] : column.offsets[row + 1]]
        out[row] = values[ids].sum(axis=0, dtype=np.float64)
        if isinstance(feature, Bag) and feature.pooling is Pooling.MEAN and len(ids):
            out[row] /= len(ids)
    return out


def build(
    features: list[IdFeature], tables: dict[str, TableRecords]
) -> tuple[Schema, Layout, Gather]:
    schema = Schema(
        features=tuple(features),
        tables=tuple(Table(name=n, rows=t.records.shape[0], dim=t.dim) for n, t in tables.items()),
    )
    places: list[Place] = []
    inputs, start = ["embedded"], 0
    for feature in features:
        dim = tables[feature.table].dim
        if isinstance(feature, Sequence):
            inputs += [f"sequence.{feature.name}", f"mask.{feature.name}"]
        else:
            places.append(Place(feature.name, feature.table, start, dim))
            start += dim
    layout = Layout(tuple(inputs), places, start)
    return schema, layout, Gather(schema, Scope.CANDIDATE, tables, layout)


def looked_up(
    gather: Gather, parts: list[tuple[dict[str, Column], int, int]], rows: int
) -> dict[str, NDArray[Any]]:
    feed: dict[str, NDArray[Any]] = {}
    gather.run(parts, rows, feed)
    return feed


def bags(rng: np.random.Generator, rows: int, limit: int, longest: int) -> Ragged:
    return Ragged.from_rows(
        rng.integers(0, limit, rng.integers(0, longest + 1)) for _ in range(rows)
    )


DIMS = st.sampled_from([1, 2, 3, 4, 5, 8, 10, 16, 17, 31, 32, 33, 63, 64, 65, 100, 130])


@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.tuples(DIMS, DIMS),
    forms=st.tuples(st.sampled_from(["f32", "int8"]), st.sampled_from(["f32", "int8"])),
    rows=st.integers(0, 9),
    cut=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
@settings(max_examples=80, deadline=None)
def test_every_lookup_equals_the_reference_in_any_chunk(
    seed: int, dims: tuple[int, int], forms: tuple[Format, Format], rows: int, cut: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    tables = {
        "s": records(rng, int(rng.integers(1, 50)), dims[0], forms[0]),
        "t": records(rng, int(rng.integers(1, 50)), dims[1], forms[1]),
    }
    features: list[IdFeature] = [
        Sparse(name="one", table="s", scope=Scope.CANDIDATE),
        Bag(name="sum", table="t", scope=Scope.CANDIDATE, max_length=90),
        Bag(name="mean", table="s", scope=Scope.CANDIDATE, max_length=90, pooling=Pooling.MEAN),
        Sequence(name="list", table="t", scope=Scope.CANDIDATE, max_length=5),
    ]
    s, t = (tables[n].records.shape[0] for n in "st")
    columns: dict[str, Column] = {
        "one": rng.integers(0, s, rows),
        "sum": bags(rng, rows, t, 90),
        "mean": bags(rng, rows, s, 3),
        "list": bags(rng, rows, t, 8),
    }
    _, layout, gather = build(features, tables)
    start, stop = sorted(min(c, rows) for c in cut)
    out = looked_up(gather, [(columns, start, stop)], stop - start)
    for feature, place in zip(features[:3], layout.lookups, strict=True):
        table = tables[feature.table]
        expected = reference(feature, columns[feature.name], dequantized(table))[start:stop]
        got = out["embedded"][:, place.start : place.start + place.width]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)
    ragged = columns["list"]
    assert isinstance(ragged, Ragged)
    ids, mask = pad_sequence(ragged, 5)
    np.testing.assert_array_equal(out["mask.list"], mask[start:stop])
    vectors = dequantized(tables["t"])[ids[start:stop]]
    np.testing.assert_allclose(out["sequence.list"], vectors, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["f32", "int8"])
def test_plain_f32_lookup_is_exact_and_pieces_land_one_after_another(form: Format) -> None:
    rng = np.random.default_rng(3)
    table = records(rng, 40, 24, form)
    feature = Sparse(name="one", table="t", scope=Scope.CANDIDATE)
    _, _, gather = build([feature], {"t": table})
    first, second = rng.integers(0, 40, 10), rng.integers(0, 40, 7)
    out = looked_up(
        gather, [({"one": first}, 2, 5), ({"one": second}, 0, 7), ({"one": first}, 9, 10)], 11
    )
    ids = np.concatenate([first[2:5], second, first[9:]])
    tolerance = 0 if form == "f32" else 1e-6
    np.testing.assert_allclose(out["embedded"], dequantized(table)[ids], atol=tolerance)


def test_f32_bag_adds_in_the_order_of_the_ids() -> None:
    rng = np.random.default_rng(5)
    table = records(rng, 100, 32, "f32")
    bag = bags(rng, 6, 100, 80)
    _, _, gather = build(
        [Bag(name="b", table="t", scope=Scope.CANDIDATE, max_length=80)], {"t": table}
    )
    values = dequantized(table)
    out = looked_up(gather, [({"b": bag}, 0, 6)], 6)["embedded"]
    for row in range(6):
        total = np.zeros(32, np.float32)
        for number in bag.values[bag.offsets[row] : bag.offsets[row + 1]]:
            total += values[number]
        np.testing.assert_array_equal(out[row], total)


def test_buffers_grow_and_keep_their_values_right() -> None:
    rng = np.random.default_rng(6)
    table = records(rng, 30, 8, "f32")
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    for rows in (3, 1, 50, 20, 200):
        ids = rng.integers(0, 30, rows)
        out = looked_up(gather, [({"one": ids}, 0, rows)], rows)["embedded"]
        np.testing.assert_array_equal(out, dequantized(table)[ids])


@pytest.mark.parametrize("make", [lambda a: np.repeat(a, 3)[::3], lambda a: a.astype(np.int32)])
def test_strided_and_narrow_ids_are_copied_not_misread(make: Any) -> None:
    rng = np.random.default_rng(7)
    table = records(rng, 30, 8, "f32")
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    ids = rng.integers(0, 30, 9)
    out = looked_up(gather, [({"one": make(ids)}, 1, 9)], 8)["embedded"]
    np.testing.assert_array_equal(out, dequantized(table)[ids[1:]])


def test_read_only_and_unaligned_ids_are_read_in_place() -> None:
    rng = np.random.default_rng(8)
    table = records(rng, 30, 8, "f32")
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    ids = rng.integers(0, 30, 9)
    for column in (
        np.frombuffer(ids.tobytes(), np.int64),
        np.frombuffer(b"x" + ids.tobytes(), np.int64, offset=1),
    ):
        out = looked_up(gather, [({"one": column}, 0, 9)], 9)["embedded"]
        np.testing.assert_array_equal(out, dequantized(table)[ids])


@pytest.mark.parametrize("wrong", [-1, 30, 2**62, -(2**63)])
def test_id_outside_the_table_is_refused_and_never_read(wrong: int) -> None:
    table = records(np.random.default_rng(9), 30, 8, "int8")
    features: list[IdFeature] = [
        Sparse(name="one", table="t", scope=Scope.CANDIDATE),
        Bag(name="bag", table="t", scope=Scope.CANDIDATE, max_length=4),
    ]
    _, _, gather = build(features, {"t": table})
    good: dict[str, Column] = {"one": np.array([0]), "bag": Ragged.from_rows([[1]])}
    with pytest.raises(QueryError, match="'one'"):
        looked_up(gather, [({**good, "one": np.array([wrong])}, 0, 1)], 1)
    with pytest.raises(QueryError, match="'bag'"):
        looked_up(gather, [({**good, "bag": Ragged.from_rows([[0, wrong]])}, 0, 1)], 1)


@pytest.mark.parametrize("offsets", [[0, 9], [3, 2], [-1, 1], [0, 2**40]])
def test_offsets_outside_the_values_are_refused(offsets: list[int]) -> None:
    table = records(np.random.default_rng(9), 30, 8, "f32")
    feature = Bag(name="bag", table="t", scope=Scope.CANDIDATE, max_length=4)
    _, _, gather = build([feature], {"t": table})
    column = Ragged(np.array([1, 2, 3]), np.array(offsets))
    with pytest.raises(QueryError, match="'bag'"):
        looked_up(gather, [({"bag": column}, 0, 1)], 1)


def test_more_rows_than_the_column_has_are_refused() -> None:
    table = records(np.random.default_rng(9), 30, 8, "f32")
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    with pytest.raises(QueryError, match="2 rows, 3 were asked"):
        looked_up(gather, [({"one": np.array([0, 1])}, 0, 3)], 3)


def test_table_of_another_size_is_refused_by_name() -> None:
    table = records(np.random.default_rng(9), 30, 8, "f32")
    schema, layout, _ = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    for wrong in (
        TableRecords("f32", 8, table.records[:29]),
        TableRecords("f32", 8, np.ascontiguousarray(table.records[:, :31])),
        TableRecords("int8", 8, np.zeros((30, 15), np.uint8)),
        TableRecords("f32", 4, table.records),
    ):
        with pytest.raises(BundleError, match="'t'"):
            Gather(schema, Scope.CANDIDATE, {"t": wrong}, layout)
    with pytest.raises(BundleError, match="no table 't'"):
        Gather(schema, Scope.CANDIDATE, {}, layout)


@pytest.mark.parametrize("form", ["f32", "int8"])
def test_rows_beyond_two_gigabytes_are_reached(tmp_path: Path, form: Format) -> None:
    dim = 64
    row_bytes = 4 * dim if form == "f32" else dim + 8
    rows = 2**33 // row_bytes + 10 if form == "f32" else 2**32 // row_bytes + 10
    shape = (rows, row_bytes)
    held = np.memmap(tmp_path / "table.bin", np.uint8, "w+", shape=shape)  # sparse: no disk used
    wanted = records(np.random.default_rng(1), 3, dim, form)
    places = np.array([0, 2**31 // row_bytes + 1, rows - 1])
    for place, record in zip(places, wanted.records, strict=True):
        held[place] = record
    held.flush()
    table = TableRecords(form, dim, np.memmap(tmp_path / "table.bin", np.uint8, "r", shape=shape))
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    out = looked_up(gather, [({"one": places}, 0, 3)], 3)["embedded"]
    np.testing.assert_allclose(out, dequantized(wanted), atol=1e-6)


def test_lookups_leave_the_interpreter_free() -> None:
    """Python code sees the output half written, which it cannot if one call holds the GIL."""
    table = records(np.random.default_rng(2), 1000, 64, "f32")
    feature = Bag(name="bag", table="t", scope=Scope.CANDIDATE, max_length=100_000)
    _, _, gather = build([feature], {"t": table})
    column = Ragged.from_rows([np.arange(100_000) % 1000])
    work: list[tuple[dict[str, Column], int, int]] = [({"bag": column}, 0, 1)] * 200
    out = looked_up(gather, work, len(work))["embedded"]
    for _ in range(100):
        out[:] = np.nan
        thread = threading.Thread(target=gather.run, args=(work, len(work), {}))
        thread.start()
        half_written = False
        while thread.is_alive() and not half_written:
            last, first = out[-1, 0], out[0, 0]  # in this order: the first row is written first
            half_written = bool(np.isnan(last) and not np.isnan(first))
        thread.join()
        if half_written:
            return
    pytest.fail("the output was only ever seen untouched or complete")
