"""The least that a tower can take on this machine, and how far the measured time is from it.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
multicore architectures" (CACM 2009), with further roofs for rows read at random and for sigmoids.
Lookups, products and sigmoids are taken not to overlap; small and narrow products do not reach the rate of those that
the roof is made of.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import TowerEntry
from headway.core import Clock, Column, Columns, DataError, Query, Ragged, Scope
from headway.engine.ceilings import Ceilings
from headway.engine.loading import LoadedModel
from headway.engine.probe import rows_ns
from headway.workload import Skew, draw_queries

_GRAPH_PROFILE = "graph"
_CURVES = {"aten.sigmoid", "aten.tanh", "aten._softmax", "aten.softmax", "aten.exp"}
"""Operations of the account that take an exponential for each value."""
_IDS = 1 << 18
_AT_ONCE = 1 << 17
"""Rows read in one go: few enough to be interrupted seldom, and so many of each table that it
hardly counts that the first are not asked for ahead."""


class TowerWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one tower has to do.

    Attributes:
        tower: ``query`` or ``candidate``.
        precision: of its products.
        features: what it looks up.
        weight_bytes: of the stored graph.
        multiply_adds: per row of the tower: per query, or per candidate.
        counted: False if they are only guessed from the size of the weights.
        curves: sigmoids, tangents and exponentials per row; 0 where they are not counted.
    """

    tower: Scope
    precision: str
    features: tuple[str, ...]
    weight_bytes: int
    multiply_adds: float
    counted: bool
    curves: float = 0.0


class TowerLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tower at one number of candidates.

    Attributes:
        tower: ``query`` or ``candidate``.
        ids: how they were drawn.
        rows: candidates of the query.
        looked_up: rows of tables that are read.
        looked_up_bytes: bytes of those rows.
        multiply_adds: of the products.
        lookups_ns: the machine's own limit of reading these rows, in this order.
        dense_ns: products at the measured rate, or the weights read once if that takes longer.
        measured_ns: median.
        distance: measured over all limits together.
        curves_ns: sigmoids, tangents and exponentials at the measured rate.
    """

    tower: Scope
    ids: Skew
    rows: int
    looked_up: float
    looked_up_bytes: float
    multiply_adds: float
    lookups_ns: float
    dense_ns: float
    measured_ns: float
    distance: float
    curves_ns: float = 0.0


class _Cost(msgspec.Struct):
    after: int
    op: str = ""


class _Account(msgspec.Struct):
    rows: int
    query: tuple[_Cost, ...]
    candidate: tuple[_Cost, ...]


def tower_work(loaded: LoadedModel) -> tuple[TowerWork, ...]:
    """Return the work of a bundle's towers, from the account of its operations where it has one."""
    account = _account(loaded)
    manifest = loaded.manifest
    found = []
    for scope, entry in (
        (Scope.QUERY, manifest.query_tower),
        (Scope.CANDIDATE, manifest.candidate_tower),
    ):
        if entry is None:
            continue
        size = next(file.size for file in manifest.files if file.path == entry.path)
        counted = account.get(scope)
        guess = size / (4 if entry.precision == "f32" else 1)
        found.append(
            TowerWork(
                tower=scope,
                precision=entry.precision,
                features=_looked_up(entry),
                weight_bytes=size,
                multiply_adds=guess if counted is None else counted[0],
                counted=counted is not None,
                curves=0.0 if counted is None else counted[1],
            )
        )
    return tuple(found)


def row_limit_ns(
    loaded: LoadedModel, work: TowerWork, ids: Skew, clock: Clock, rng: np.random.Generator
) -> float:
    """Return the least time of one lookup of a tower: its own tables, ids drawn likewise.

    Args:
        loaded: the model; its tables are read.
        work: the tower.
        ids: how ids are drawn.
        clock: what tells the time.
        rng: draws them.
    """
    columns = _many(loaded, work, ids, rng)
    regions = []
    for name in work.features:
        table = loaded.model.tables[_table(loaded, name)]
        records, drawn = table.records, table.places(_ids(columns[name])[:_IDS])
        size = max(1, min(len(drawn), _AT_ONCE // len(work.features)))
        lists = [drawn[start : start + size] for start in range(0, len(drawn) - size + 1, size)]
        if lists:
            regions.append((records.reshape(-1), records.shape[1], lists))
    return rows_ns(regions, clock, 0.2) if regions else 0.0


def tower_limit(
    loaded: LoadedModel,
    work: TowerWork,
    measured: tuple[Skew, Sequence[Query], NDArray[np.int64]],
    ceilings: Ceilings,
    row_ns: float,
) -> TowerLimit:
    """Return the limit of a tower for queries of one size.

    Args:
        loaded: the model.
        work: of the tower.
        measured: how ids were drawn, the queries, and the times the tower took.
        ceilings: of the machine.
        row_ns: of ``row_limit_ns``.
    """
    ids, queries, samples = measured
    rows = queries[0].size
    counts = {name: _mean_ids(queries, work.tower, name) for name in work.features}
    row_bytes = {
        name: loaded.model.tables[_table(loaded, name)].records.shape[1] for name in counts
    }
    times = rows if work.tower is Scope.CANDIDATE else 1
    operations, curves = work.multiply_adds * times, ceilings.curve_ns(work.curves * times)
    products = ceilings.product_ns(operations, work.precision) or 0.0
    looked_up = sum(counts.values())
    lookups = looked_up * row_ns
    dense = max(products, ceilings.read_ns(work.weight_bytes))
    median = float(np.median(samples))
    return TowerLimit(
        tower=work.tower,
        ids=ids,
        rows=rows,
        looked_up=looked_up,
        looked_up_bytes=sum(counts[name] * row_bytes[name] for name in counts),
        multiply_adds=operations,
        lookups_ns=lookups,
        dense_ns=dense,
        measured_ns=median,
        distance=median / max(1.0, lookups + dense + curves),
        curves_ns=curves,
    )


def _account(loaded: LoadedModel) -> dict[Scope, tuple[float, float]]:
    """Return multiply-adds and curves per row of each tower, as counted when it was lowered."""
    raw = loaded.bundle.profiles.get(_GRAPH_PROFILE)
    if raw is None:
        return {}
    try:
        account = msgspec.json.decode(raw, type=_Account)
    except msgspec.MsgspecError as error:
        raise DataError(f"the bundle's account of its graph cannot be read: {error}") from error
    return {
        Scope.QUERY: _counted(account.query, 1),
        Scope.CANDIDATE: _counted(account.candidate, max(1, account.rows)),
    }


def _counted(nodes: Sequence[_Cost], rows: int) -> tuple[float, float]:
    curves = sum(node.after for node in nodes if node.op in _CURVES)
    return sum(node.after for node in nodes) / rows, curves / rows


def _looked_up(entry: TowerEntry) -> tuple[str, ...]:
    sequences = [n.partition(".")[2] for n in entry.inputs if n.startswith(("sequence.", "mask."))]
    return tuple(dict.fromkeys([*(lookup.feature for lookup in entry.lookups), *sequences]))


def _table(loaded: LoadedModel, feature: str) -> str:
    return next(f.table for f in loaded.manifest.schema.id_features() if f.name == feature)


def _many(loaded: LoadedModel, work: TowerWork, ids: Skew, rng: np.random.Generator) -> Columns:
    """Return columns of a tower with rows enough for a measurement."""
    schema = loaded.manifest.schema
    longest = max((getattr(f, "max_length", 1) for f in schema.id_features(work.tower)), default=1)
    rows = max(64, min(1 << 16, _IDS // longest))
    if work.tower is Scope.CANDIDATE:
        (query,) = draw_queries(schema, np.array([rows]), rng, ids=ids)
        return query.candidates
    rows = min(rows, 4096)
    queries = draw_queries(schema, np.zeros(rows, np.int64), rng, ids=ids)
    return {
        name: np.concatenate([_ids(query.context[name]) for query in queries])
        for name in work.features
    }


def _mean_ids(queries: Sequence[Query], scope: Scope, name: str) -> float:
    parts = [q.context if scope is Scope.QUERY else q.candidates for q in queries]
    return float(np.mean([len(_ids(columns[name])) for columns in parts]))


def _ids(column: Column) -> NDArray[np.int64]:
    return column.values if isinstance(column, Ragged) else column
