"""The nine models of the zoo at the sizes their papers and DeepRecSys give.

``paper`` follows the table of models in DeepRecSys (Gupta et al., ISCA 2020), ``repo`` the
configuration files published with it. What the table leaves open (rows, dims, "tens of tables")
is taken from the files; in both, the first width of a dense MLP is that of its input. DCN-v2 is
the model of MLPerf's DLRM-v2 in either style.

Where the files stray from a model's own paper, that paper holds: NCF multiplies its factors,
DIN's unit sees ``[h, c, h - c, h * c]``, DIEN has a GRU, a softmax and an AUGRU, histories share
the table of the candidate item (200 to 250 lookups for DIN, 40 to 50 for DIEN), and every task
ends in one logit. DLRM takes pairwise dots in ``paper`` and a concatenation in ``repo``.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Literal

import msgspec

from headway.core import (
    Bag,
    Dense,
    Feature,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    Task,
    UsageError,
)
from headway.models.build import ModelSettings
from headway.models.dcn_v2 import DcnV2Settings
from headway.models.dien import DienSettings
from headway.models.din import DinSettings
from headway.models.dlrm import DlrmSettings
from headway.models.mt_wide_deep import MtWideDeepSettings
from headway.models.ncf import NcfSettings
from headway.models.wide_deep import WideDeepSettings

Style = Literal["paper", "repo"]
Scopes = Literal["default", "all-candidate"]
Preset = tuple[ModelSettings, Schema]
STYLES: tuple[Style, ...] = ("paper", "repo")
SCOPES: tuple[Scopes, ...] = ("default", "all-candidate")
MLPERF_TABLES: tuple[tuple[int, int], ...] = (
    *((40_000_000, 3), (39_060, 2), (17_295, 1), (7_424, 2), (20_265, 6), (3, 1), (7_122, 1)),
    *((1_543, 1), (63, 1), (40_000_000, 7), (3_067_956, 3), (405_282, 8), (10, 1), (2_209, 6)),
    *((11_938, 9), (155, 5), (4, 1), (976, 1), (14, 1), (40_000_000, 12), (40_000_000, 100)),
    *((40_000_000, 27), (590_152, 10), (12_973, 3), (108, 1), (36, 1)),
)
"""Rows and lookups of MLPerf's multi-hot Criteo tables."""


class ZooModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the zoo, ready for ``build_model(settings, schema)``.

    Attributes:
        name: among ``ZOO``.
        style: whose sizes it has.
        scopes: which features belong to the query.
        settings: the shape of its dense part, never scaled.
        schema: its features and tables; rows are capped if that was asked for.
    """

    name: str
    style: Style
    scopes: Scopes
    settings: ModelSettings
    schema: Schema


def zoo(
    name: str, style: Style = "paper", *, scopes: Scopes = "default", max_rows: int | None = None
) -> ZooModel:
    """Return a model of the zoo.

    By default the history and the dense inputs of DLRM and DCN-v2 belong to the query, and so do
    the first two thirds (rounded down) of the other features with ids and of the dense inputs of
    Wide & Deep.

    Args:
        name: among ``ZOO``.
        style: ``paper`` or ``repo``.
        scopes: ``default``, or ``all-candidate``, the worst case: candidates share nothing.
        max_rows: cap on the rows of every table, so that it fits a small machine; nothing else
            is scaled. Without it, tables take up to 105 GB.

    Raises:
        UsageError: if there is no such model, style or scopes.
    """
    for word, known in ((name, tuple(ZOO)), (style, STYLES), (scopes, SCOPES)):
        if word not in known:
            raise UsageError(f"the zoo has no {word!r}; choose among {', '.join(known)}")
    settings, schema = ZOO[name](style)
    features, tables = schema.features, schema.tables
    if scopes == "all-candidate":
        features = tuple(msgspec.structs.replace(f, scope=Scope.CANDIDATE) for f in features)
    if max_rows is not None:
        tables = tuple(msgspec.structs.replace(t, rows=min(t.rows, max_rows)) for t in tables)
    schema = Schema(features=features, tables=tables, tasks=schema.tasks)
    return ZooModel(name=name, style=style, scopes=scopes, settings=settings, schema=schema)


def _ncf(style: Style) -> Preset:
    # The files give the 140,000 rows to both factors and the 28,000 to both inputs of the MLP.
    pairs = {"mf_user": 140_000, "mlp_user": 28_000, "mf_item": 140_000, "mlp_item": 28_000}
    schema = _named({name: (rows, 1) for name, rows in pairs.items()}, 64)
    factors = ("mf_user", "mf_item")
    if style == "paper":
        return NcfSettings(factors=factors, mlp=(256, 256, 128)), schema
    return NcfSettings(factors=factors, mlp=(256, 256, 128, 64), predict_mlp=(64,)), schema


def _wide_deep(_: Style) -> Preset:
    schema = _schema([(1_000_000, 1)] * 27, 32, dense=_split_dense(512))
    return WideDeepSettings(deep_mlp=(1024, 512, 256)), schema


def _mt_wide_deep(style: Style) -> Preset:
    tables = [(500_000, 1)] * 41 + [(5_000_000, 1)] * 2
    tasks = ("click", "watch", "like", "share", "dismiss")
    schema = _schema(tables, 32, dense=_split_dense(512), tasks=tasks)
    if style == "paper":
        return MtWideDeepSettings(task_mlp=(1024, 512, 256)), schema
    return MtWideDeepSettings(shared_mlp=(1024, 512), task_mlp=(256, 128)), schema


def _rmc1(style: Style) -> Preset:
    if style == "paper":
        dots = DlrmSettings(bottom_mlp=(128, 32), predict_mlp=(256, 64), interaction="dot")
        return dots, _schema([(4_000_000, 80)] * 10, 32, dense=_query_dense(256))
    settings = DlrmSettings(bottom_mlp=(64, 32), predict_mlp=(256, 64))
    return settings, _schema([(4_000_000, 80)] * 8, 32, dense=_query_dense(128))


def _rmc2(style: Style) -> Preset:
    if style == "paper":
        dots = DlrmSettings(bottom_mlp=(128, 32), predict_mlp=(512, 128), interaction="dot")
        return dots, _schema([(500_000, 80)] * 40, 32, dense=_query_dense(256))
    settings = DlrmSettings(bottom_mlp=(128, 64), predict_mlp=(128, 64))
    return settings, _schema([(500_000, 120)] * 32, 64, dense=_query_dense(256))


def _rmc3(style: Style) -> Preset:
    schema = _schema([(2_000_000, 20)] * 10, 32, dense=_query_dense(2560))
    if style == "paper":
        return DlrmSettings(bottom_mlp=(512, 32), predict_mlp=(512, 128), interaction="dot"), schema
    return DlrmSettings(bottom_mlp=(1024, 256, 32), predict_mlp=(512, 256)), schema


def _din(style: Style) -> Preset:
    settings = DinSettings(attention_mlp=(36,), activation="prelu", predict_mlp=(200, 80))
    if style == "paper":
        tables = [(1_000_000, 1)] * 19 + [(10_000_000, 1)]
        return settings, _schema(tables, 32, history=200)
    tables = [(1_000_000, 3), (10_000_000, 3), (10_000_000, 1)]
    return settings, _schema(tables, 32, history=250)


def _dien(style: Style) -> Preset:
    settings = DienSettings(hidden=64, predict_mlp=(200, 80))
    if style == "paper":
        tables = [(500_000, 1)] * 19 + [(5_000_000, 1)]
        return settings, _schema(tables, 32, history=50)
    tables = [(500_000, 1), (5_000_000, 1), (5_000_000, 1)]
    return settings, _schema(tables, 32, history=40)


def _dcn_v2(_: Style) -> Preset:
    settings = DcnV2Settings(
        bottom_mlp=(512, 256, 128),
        cross_layers=3,
        cross_rank=512,
        predict_mlp=(1024, 1024, 512, 256),
    )
    return settings, _schema(MLPERF_TABLES, 128, dense=_query_dense(13))


ZOO: dict[str, Callable[[Style], Preset]] = {
    "ncf": _ncf,
    "wnd": _wide_deep,
    "mt-wnd": _mt_wide_deep,
    "rmc1": _rmc1,
    "rmc2": _rmc2,
    "rmc3": _rmc3,
    "din": _din,
    "dien": _dien,
    "dcn-v2": _dcn_v2,
}
"""The presets by name, in the order of DeepRecSys' table, DCN-v2 last."""


def _query_dense(width: int) -> tuple[Dense, ...]:
    return (Dense(name="dense", scope=Scope.QUERY, width=width),)


def _split_dense(width: int) -> tuple[Dense, ...]:
    mine = width * 2 // 3
    return (
        Dense(name="user_dense", scope=Scope.QUERY, width=mine),
        Dense(name="item_dense", scope=Scope.CANDIDATE, width=width - mine),
    )


def _schema(
    tables: Many[tuple[int, int]],
    dim: int,
    *,
    dense: tuple[Dense, ...] = (),
    history: int = 0,
    tasks: Many[str] = ("click",),
) -> Schema:
    """Return a schema with one feature per table of (rows, lookups).

    Args:
        tables: rows and ids per row of each.
        dim: of all tables.
        dense: put before the features with ids.
        history: length of a history of the last feature's ids; 0 for none.
        tasks: names.
    """
    shared = len(tables) * 2 // 3
    names = [f"user_{i}" if i < shared else f"item_{i - shared}" for i in range(len(tables))]
    schema = _named(dict(zip(names, tables, strict=True)), dim)
    past: tuple[Feature, ...] = ()
    if history:
        past = (Sequence(name="history", table=names[-1], scope=Scope.QUERY, max_length=history),)
    return Schema(
        features=(*dense, *past, *schema.features),
        tables=schema.tables,
        tasks=tuple(Task(name=name) for name in tasks),
    )


def _named(tables: dict[str, tuple[int, int]], dim: int) -> Schema:
    """Return one feature per table; the first two thirds belong to the query."""
    features: list[Feature] = []
    for i, (name, (_, lookups)) in enumerate(tables.items()):
        scope = Scope.QUERY if i < len(tables) * 2 // 3 else Scope.CANDIDATE
        if lookups == 1:
            features.append(Sparse(name=name, table=name, scope=scope))
        else:
            features.append(Bag(name=name, table=name, scope=scope, max_length=lookups))
    return Schema(
        features=tuple(features),
        tables=tuple(Table(name=n, rows=rows, dim=dim) for n, (rows, _) in tables.items()),
    )
