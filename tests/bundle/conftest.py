"""One small bundle for the tests of the room; its towers are stand-ins, nothing runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headway.bundle import (
    BundleParts,
    Lookup,
    Provenance,
    TableFormat,
    TablePart,
    TowerPart,
    pack_table,
    write_bundle,
)
from headway.core import Bag, Dense, Query, Ragged, Schema, Scope, Sequence, Sparse, Table


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema(
        features=(
            Dense(name="age", scope=Scope.QUERY, width=2),
            Bag(name="liked", table="item", scope=Scope.QUERY, max_length=4),
            Sequence(name="seen", table="item", scope=Scope.QUERY, max_length=4),
            Sparse(name="item", table="item", scope=Scope.CANDIDATE),
            Sparse(name="shop", table="shop", scope=Scope.CANDIDATE),
        ),
        tables=(Table(name="item", rows=50, dim=4), Table(name="shop", rows=7, dim=3)),
    )


def draw_query(rng: np.random.Generator, size: int) -> Query:
    return Query(
        id=f"q{size}",
        context={
            "age": rng.normal(size=(1, 2)).astype(np.float32),
            "liked": Ragged.from_rows([rng.integers(0, 50, size % 4)]),
            "seen": Ragged.from_rows([rng.integers(0, 50, size % 3)]),
        },
        candidates={"item": rng.integers(0, 50, size), "shop": rng.integers(0, 7, size)},
        size=size,
    )


@pytest.fixture(scope="session")
def parts(schema: Schema) -> BundleParts:
    rng = np.random.default_rng(0)
    formats: dict[str, TableFormat] = {"item": "int8", "shop": "f32"}
    tables = {
        t.name: TablePart(
            formats[t.name],
            pack_table(rng.normal(size=(t.rows, t.dim)).astype("f4"), formats[t.name]),
        )
        for t in schema.tables
    }
    queries = [draw_query(rng, size) for size in (3, 0, 1, 6)]
    return BundleParts(
        name="small",
        schema=schema,
        tables=tables,
        query_tower=TowerPart(
            content=b"query graph",
            precision="f32",
            inputs=("embedded", "dense.age", "sequence.seen", "mask.seen"),
            outputs=("hidden.0",),
            lookups=(Lookup(feature="liked", table="item", start=0, width=4),),
            embedded_width=4,
        ),
        candidate_tower=TowerPart(
            content=b"candidate graph",
            precision="int8",
            inputs=("embedded", "hidden.0", "row_to_query"),
            outputs=("output",),
            lookups=(
                Lookup(feature="item", table="item", start=0, width=4),
                Lookup(feature="shop", table="shop", start=4, width=3),
            ),
            embedded_width=7,
        ),
        golden=tuple((q, rng.normal(size=(q.size, 1)).astype(np.float32)) for q in queries),
        golden_tolerance=1e-5,
        provenance=Provenance(created_unix=1, headway="0", model="none", details={"a": "b"}),
        transforms_json=b'{"a": 1}',
        profiles={"cpu": b"{}"},
        report_html="<p>report</p>",
    )


@pytest.fixture
def written(tmp_path: Path, parts: BundleParts) -> Path:
    return write_bundle(tmp_path / "bundle", parts).path
