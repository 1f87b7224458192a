"""From settings to four encoded data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import Column, DataError, Ragged, Schema, Scope, take_rows
from headway.data.dataset import Dataset
from headway.data.histories import history_rows
from headway.data.raw import RawTable
from headway.data.readers import read_raw
from headway.data.settings import (
    DataSettings,
    DenseSettings,
    HistorySettings,
    LabelSettings,
    RaggedSettings,
    SparseSettings,
)
from headway.data.splits import split_rows
from headway.data.transforms import Transforms, fit_transforms, make_schema

Part = Literal["train", "valid", "choose", "test"]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Encoded data sets, how they were encoded, and the raw rows they come from.

    Attributes:
        schema: of the features, with table sizes as fitted.
        transforms: fitted on train alone.
        train: what models learn from.
        valid: stops training early.
        choose: chooses compositions.
        test: judges; has chosen nothing.
        raw: the rows as read.
        rows: part to the raw row of each of its impressions.
        histories: feature to the raw rows that make up each raw row's history.
        sources: history feature to the column whose values it holds.
    """

    schema: Schema
    transforms: Transforms
    train: Dataset
    valid: Dataset
    choose: Dataset
    test: Dataset
    raw: RawTable
    rows: Mapping[str, Rows]
    histories: Mapping[str, Ragged]
    sources: Mapping[str, str]

    def raw_query(
        self, part: Part, index: int
    ) -> tuple[dict[str, object], list[dict[str, object]]]:
        """Return query ``index`` of a part as a client would send it: fields and candidates."""
        dataset: Dataset = getattr(self, part)
        start, stop = np.searchsorted(dataset.row_to_query, [index, index + 1])
        rows = self.rows[part][start:stop]
        context = self._records(rows[:1], Scope.QUERY)[0]
        return context, self._records(rows, Scope.CANDIDATE)

    def _records(self, rows: Rows, scope: Scope) -> list[dict[str, object]]:
        fields = self.transforms.fields(self.schema, scope)
        columns = {field: self._values(field, rows) for field in fields}
        return [{f: columns[f][i] for f in fields} for i in range(len(rows))]

    def _values(self, field: str, rows: Rows) -> list[object]:
        if field not in self.histories:
            return self.raw.values(field, rows)
        source = self.sources[field]
        past = self.histories[field].take(rows)
        return [self.raw.values(source, past.slice(i, i + 1).values) for i in range(len(rows))]


def load_data(settings: DataSettings, base: Path = Path()) -> Prepared:
    """Read, split, fit on train, encode and group into queries.

    Args:
        settings: the ``data:`` section of a config.
        base: where relative paths start, usually the folder of the config file.

    Raises:
        DataError: if the files do not hold what the settings say.
        MissingDependencyError: without polars.
    """
    return prepare(read_raw(settings.reader, base), settings)


def prepare(raw: RawTable, settings: DataSettings) -> Prepared:
    """As ``load_data``, from raw rows in memory."""
    split = split_rows(raw, settings.split, settings.query_by)
    labels = _labels(raw, settings.label)
    transforms = fit_transforms(settings, lambda name: raw.values(name, split.train))
    schema = make_schema(settings, transforms)
    past = _histories(settings)
    histories = {
        str(feature.name): history_rows(raw, history, feature.max_length)
        for feature, history in past
    }
    columns = transforms.encode_columns(
        raw.values, [f for f in schema.features if f.name not in histories]
    )
    for feature, history in past:
        rows = histories[feature.name]
        ids = transforms.encoders[str(feature.table)].encode(raw.values(history.of))
        columns[feature.name] = Ragged(ids[rows.values], rows.offsets)
    parts: dict[str, Rows] = {}
    datasets: dict[str, Dataset] = {}
    for part in ("train", "valid", "choose", "test"):
        parts[part], row_to_query = _grouped(raw, getattr(split, part), settings.query_by)
        datasets[part] = _dataset(schema, columns, labels, parts[part], row_to_query)
    return Prepared(
        schema=schema,
        transforms=transforms,
        **datasets,
        raw=raw,
        rows=parts,
        histories=histories,
        sources={feature.name: history.of for feature, history in past},
    )


def fingerprint(prepared: Prepared) -> str:
    """Return what tells this preparation from others: same schema, encoding and rows per part.

    Two preparations of one fingerprint agree on which raw rows train and which judge.

    Returns:
        64 hexadecimal digits, a SHA-256.
    """
    digest = hashlib.sha256()
    pieces = [msgspec.json.encode(prepared.schema), prepared.transforms.to_json()]
    for part in ("train", "valid", "choose", "test"):
        dataset: Dataset = getattr(prepared, part)
        pieces.append(prepared.rows[part].astype("<i8").tobytes())
        pieces.append(dataset.labels.astype("<f4").tobytes())
    for piece in pieces:
        # With its length first, so that no two lists of pieces run together alike.
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _histories(settings: DataSettings) -> list[tuple[RaggedSettings, HistorySettings]]:
    return [
        (feature, feature.history)
        for feature in settings.expanded()
        if not isinstance(feature, SparseSettings | DenseSettings) and feature.history is not None
    ]


def _labels(raw: RawTable, settings: LabelSettings) -> NDArray[np.float32]:
    values = raw.numbers(settings.column)
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise DataError(f"the label column {settings.column!r} has no value in row {row}")
    if settings.at_least is not None:
        return (values >= settings.at_least).astype(np.float32)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"the label column {settings.column!r} holds {values[row]:g} in row {row}, which is "
            "neither 0 nor 1; set label.at_least to say which values count as 1"
        )
    return values.astype(np.float32)


def _grouped(raw: RawTable, rows: Rows, by: tuple[str, ...]) -> tuple[Rows, Rows]:
    """Return rows with those of one query side by side, and the query of each."""
    if not by:
        return rows, np.arange(len(rows), dtype=np.int64)
    keys: dict[tuple[object, ...], int] = {}
    values = zip(*(raw.values(name, rows) for name in by), strict=True)
    queries = np.array([keys.setdefault(key, len(keys)) for key in values], np.int64)
    order = np.argsort(queries, kind="stable")
    return rows[order], queries[order]


def _dataset(
    schema: Schema,
    columns: Mapping[str, Column],
    labels: NDArray[np.float32],
    rows: Rows,
    row_to_query: Rows,
) -> Dataset:
    first = np.flatnonzero(np.diff(row_to_query, prepend=-1))
    context = {f.name: columns[f.name] for f in schema.of_scope(Scope.QUERY)}
    for name, column in context.items():
        _check_agreement(name, column, rows, rows[first][row_to_query])
    candidates = {f.name: columns[f.name] for f in schema.of_scope(Scope.CANDIDATE)}
    return Dataset(
        schema=schema,
        context=take_rows(context, rows[first]),
        candidates=take_rows(candidates, rows),
        row_to_query=row_to_query,
        labels=labels[rows, None],
    )


def _check_agreement(name: str, column: Column, rows: Rows, leaders: Rows) -> None:
    """Refuse a query-level feature that differs among the impressions of one query."""
    if isinstance(column, Ragged):
        mine, first = column.take(rows), column.take(leaders)
        same = np.array_equal(mine.offsets, first.offsets) and np.array_equal(
            mine.values, first.values
        )
    else:
        same = np.array_equal(column[rows], column[leaders])
    if not same:
        raise DataError(
            f"the query-level feature {name!r} differs among impressions of one query; add a "
            "column to query_by, or make the feature candidate-level"
        )
