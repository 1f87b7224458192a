"""Looked-up rows equal a plain NumPy reference, whatever the table, ids and chunk."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.bundle import TableFormat, pack_table, unpack_rows
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
from headway.engine import kernels, vectors
from headway.engine.tables import Gather, TableRecords

FORMATS: tuple[TableFormat, ...] = ("f32", "bf16", "int8", "int4")


class Place:
    def __init__(self, feature: str, table: str, start: int, width: int) -> None:
        self.feature, self.table, self.start, self.width = feature, table, start, width


class Layout:
    def __init__(self, inputs: tuple[str, ...], lookups: list[Place], width: int) -> None:
        self.inputs, self.lookups, self.embedded_width = inputs, lookups, width
        self.outputs = ("output",)
        self.per_query = False


def records(rng: np.random.Generator, rows: int, dim: int, form: TableFormat) -> TableRecords:
    values = rng.standard_normal((rows, dim)).astype(np.float32)
    return TableRecords(form, dim, pack_table(values, form))


def dequantized(table: TableRecords) -> NDArray[np.float32]:
    return unpack_rows(table.records, table.format, table.dim)


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
    forms=st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)),
    rows=st.integers(0, 9),
    cut=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
@settings(max_examples=80, deadline=None)
def test_every_lookup_equals_the_reference_in_any_chunk(
    seed: int,
    dims: tuple[int, int],
    forms: tuple[TableFormat, TableFormat],
    rows: int,
    cut: tuple[int, int],
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
        # Codes are summed apart from biases: the rounding is that of sums some 200 large.
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)
    ragged = columns["list"]
    assert isinstance(ragged, Ragged)
    ids, mask = pad_sequence(ragged, 5)
    np.testing.assert_array_equal(out["mask.list"], mask[start:stop])
    vectors = dequantized(tables["t"])[ids[start:stop]]
    np.testing.assert_allclose(out["sequence.list"], vectors, rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_plain_float_lookup_is_exact_and_pieces_land_one_after_another(form: TableFormat) -> None:
    rng = np.random.default_rng(3)
    table = records(rng, 40, 24, form)
    feature = Sparse(name="one", table="t", scope=Scope.CANDIDATE)
    _, _, gather = build([feature], {"t": table})
    first, second = rng.integers(0, 40, 10), rng.integers(0, 40, 7)
    out = looked_up(
        gather, [({"one": first}, 2, 5), ({"one": second}, 0, 7), ({"one": first}, 9, 10)], 11
    )
    ids = np.concatenate([first[2:5], second, first[9:]])
    tolerance = 0 if form in {"f32", "bf16"} else 1e-6
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


@given(
    seed=st.integers(0, 2**32 - 1),
    dim=DIMS,
    form=st.sampled_from(FORMATS),
    longest=st.integers(0, 90),
    kept=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_weighted_sum_of_the_last_ids_equals_the_reference(
    seed: int, dim: int, form: TableFormat, longest: int, kept: int
) -> None:
    rng = np.random.default_rng(seed)
    table = records(rng, 37, dim, form)
    ragged = bags(rng, 5, 37, longest)
    weights = rng.standard_normal(len(ragged.values)).astype(np.float32)
    out = np.full((5, dim + 1), np.nan, np.float32)
    lookup = np.zeros(1, kernels.LOOKUP)
    code = FORMATS.index(form)
    lookup["op"], lookup["format"], lookup["max_length"] = kernels.BAG_WEIGHTED, code, kept
    lookup["table"], lookup["rows"] = table.records.ctypes.data, 37
    lookup["row_bytes"], lookup["dim"] = table.records.shape[1], dim
    lookup["block"], lookup["ahead"] = kernels.block_of(code, dim), 16
    lookup["out"], lookup["out_stride"] = out.ctypes.data, out.strides[0]
    arrays = (ragged.values, ragged.offsets, weights)
    job = np.array([*kernels.TYPES, 3, 0, 5, 0], np.int64)
    assert kernels.look_up(lookup, id(arrays), job.ctypes.data, 1) == kernels.DONE
    values = dequantized(table).astype(np.float64)
    for row in range(5):
        span = slice(int(ragged.offsets[row]), int(ragged.offsets[row + 1]))
        ids, own = ragged.values[span][-kept:], weights[span][-kept:]
        np.testing.assert_allclose(out[row, :dim], own @ values[ids], rtol=1e-4, atol=5e-4)
    assert np.isnan(out[:, dim]).all()
    short = (ragged.values, ragged.offsets, np.append(weights, weights[:1] * 0 + 1.0)[1:-1])
    if len(weights):
        assert kernels.look_up(lookup, id(short), job.ctypes.data, 1) != kernels.DONE


def test_bag_keeps_its_last_ids_up_to_the_length_of_the_schema() -> None:
    rng = np.random.default_rng(4)
    table = records(rng, 30, 8, "f32")
    feature = Bag(name="b", table="t", scope=Scope.CANDIDATE, max_length=3, pooling=Pooling.MEAN)
    _, _, gather = build([feature], {"t": table})
    bag = bags(rng, 20, 30, 9)
    out = looked_up(gather, [({"b": bag}, 0, 20)], 20)["embedded"]
    expected = reference(feature, bag.last(3), dequantized(table))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def sparse_file(path: Path, size: int) -> None:
    """Make a file of zeros that takes no room on the disk, or skip."""
    with path.open("wb") as file:
        file.truncate(size)
        if os.fstat(file.fileno()).st_blocks * 512 > size // 2:
            pytest.skip("this file system has no sparse files")


@pytest.mark.parametrize("form", FORMATS)
def test_rows_beyond_two_to_the_31_elements_are_reached(tmp_path: Path, form: TableFormat) -> None:
    dim = 64
    wanted = records(np.random.default_rng(1), 4, dim, form)
    length = wanted.records.shape[1]
    rows = 2**31 // dim + 2**32 // length + 10  # past 2**31 values and past 2**32 bytes
    path = tmp_path / "table.bin"
    sparse_file(path, rows * length)
    held = np.memmap(path, np.uint8, "r+", shape=(rows, length))
    places = np.array([0, 2**31 // length + 1, 2**31 // dim + 1, rows - 1])
    for place, record in zip(places, wanted.records, strict=True):
        held[place] = record
    held.flush()
    table = TableRecords(form, dim, np.memmap(path, np.uint8, "r", shape=(rows, length)))
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    out = looked_up(gather, [({"one": places}, 0, 4)], 4)["embedded"]
    np.testing.assert_allclose(out, dequantized(wanted), atol=1e-6)


@pytest.mark.parametrize("columns", [{"one": Ragged.from_rows([[1]])}, {"one": np.array([[1]])}])
def test_column_of_another_kind_is_refused_by_name(columns: dict[str, Column]) -> None:
    table = records(np.random.default_rng(9), 30, 8, "f32")
    _, _, gather = build([Sparse(name="one", table="t", scope=Scope.CANDIDATE)], {"t": table})
    with pytest.raises(QueryError, match="'one' needs one id a row"):
        looked_up(gather, [(columns, 0, 1)], 1)


def test_array_given_for_a_bag_is_refused_by_name() -> None:
    table = records(np.random.default_rng(9), 30, 8, "f32")
    feature = Bag(name="bag", table="t", scope=Scope.CANDIDATE, max_length=4)
    _, _, gather = build([feature], {"t": table})
    with pytest.raises(QueryError, match="'bag' needs ragged ids"):
        looked_up(gather, [({"bag": np.array([1])}, 0, 1)], 1)


def test_cached_code_knows_which_intrinsics_it_was_made_of() -> None:
    """Numba's cache looks at the file of ``look_up`` and at what the function closes over."""
    assert kernels.look_up.py_func.__closure__[0].cell_contents == vectors.SOURCES


def test_resident_records_are_equal_and_start_a_line() -> None:
    for rows in (3, 20_000):
        table = records(np.random.default_rng(1), rows, 64, "f32")
        copied = table.resident().records
        np.testing.assert_array_equal(copied, table.records)
        assert copied.ctypes.data % 64 == 0
        assert not np.shares_memory(copied, table.records)


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
