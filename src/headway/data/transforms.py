"""The fitted way from raw fields to columns, stored in the bundle and used unchanged at serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np

from headway.core import (
    Bag,
    Column,
    Columns,
    DataError,
    Dense,
    Feature,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    Table,
    Task,
    UsageError,
)
from headway.core import Sequence as SequenceFeature
from headway.data.encoders import (
    BadValueError,
    Encoder,
    Scaling,
    fit_encoder,
    fit_scaling,
)
from headway.data.settings import (
    BagSettings,
    DataSettings,
    DenseSettings,
    FeatureSettings,
    SequenceSettings,
    SparseSettings,
)

RawRecord = Mapping[str, object]
"""One raw row: field name to text, number, list of text, or None where it is missing."""
Fetch = Callable[[str], Sequence[object]]


class DenseFields(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dense"
):
    """The raw fields of a dense feature, and what is done to each."""

    fields: tuple[str, ...]
    scaling: tuple[Scaling, ...]


class IdField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ids"):
    """The raw field of a feature that looks rows up; the encoder is its table's."""

    field: str


class Transforms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that serving needs to turn raw rows into columns; survives JSON exactly.

    Attributes:
        features: by name.
        encoders: by table, so that features sharing a table share its ids.
    """

    features: dict[str, DenseFields | IdField]
    encoders: dict[str, Encoder]

    def to_json(self) -> bytes:
        """Return the whole as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Transforms:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: if it is anything else.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"these are not transforms: {error}") from error

    def fields(self, schema: Schema, scope: Scope) -> tuple[str, ...]:
        """Return the raw fields that a query (or each candidate) must have, each once."""
        names = chain.from_iterable(self._fields_of(f) for f in schema.of_scope(scope))
        return tuple(dict.fromkeys(names))

    def encode_query(
        self,
        raw_query: RawRecord,
        raw_candidates: Sequence[RawRecord],
        schema: Schema,
        *,
        name: str = "",
    ) -> Query:
        """Return a raw query as columns, encoded as the training rows were.

        A None is a missing value. Lists longer than a feature's ``max_length`` keep their end,
        the newest of a history.

        Args:
            raw_query: every query-level field; histories under their feature's name, oldest first.
            raw_candidates: one record each, with every candidate-level field.
            schema: of the model that was trained with these transforms.
            name: the query's id.

        Raises:
            QueryError: naming the field that is missing, unknown, of the wrong type, not
                finite or not valid Unicode.
        """
        return Query(
            id=name,
            context=self._encode_records([raw_query], schema, Scope.QUERY),
            candidates=self._encode_records(raw_candidates, schema, Scope.CANDIDATE),
            size=len(raw_candidates),
        )

    def encode_columns(self, fetch: Fetch, features: Sequence[Feature]) -> dict[str, Column]:
        """Return the columns of some features from whole raw columns.

        Args:
            fetch: returns the values of a raw field, None where one is missing.
            features: what to encode.

        Raises:
            DataError: naming the column and row of a value that cannot be encoded.
        """
        return {f.name: self._encode_feature(f, fetch, _bad_column) for f in features}

    def _encode_records(
        self, records: Sequence[RawRecord], schema: Schema, scope: Scope
    ) -> Columns:
        fields = self.fields(schema, scope)
        _check_records(records, fields, scope)

        # itemgetter reads a field of all records without a Python-level loop.
        def fetch(field: str) -> Sequence[object]:
            return list(map(itemgetter(field), records))

        refuse = _bad_query if scope == Scope.QUERY else _bad_candidate
        return {f.name: self._encode_feature(f, fetch, refuse) for f in schema.of_scope(scope)}

    def _encode_feature(
        self, feature: Feature, fetch: Fetch, refuse: Callable[[str, BadValueError], Exception]
    ) -> Column:
        fields = self._fields_of(feature)
        field = fields[0]
        try:
            if isinstance(feature, Sparse):
                return self.encoders[feature.table].encode(fetch(field))
            if isinstance(feature, Bag | SequenceFeature):
                encoder = self.encoders[feature.table]
                return _encode_lists(fetch(field), encoder, feature.max_length)
            parts = []
            for field, scaling in zip(fields, self._scaling_of(feature), strict=True):
                parts.append(scaling.encode(fetch(field)))
            return np.stack(parts, axis=1)
        except BadValueError as error:
            raise refuse(field, error) from error

    def _fields_of(self, feature: Feature) -> tuple[str, ...]:
        known = self.features.get(feature.name)
        if isinstance(feature, Dense):
            if isinstance(known, DenseFields) and len(known.fields) == feature.width:
                return known.fields
        elif isinstance(known, IdField) and feature.table in self.encoders:
            return (known.field,)
        raise UsageError(
            f"feature {feature.name!r} of the schema has no fitting transform; "
            "schema and transforms must come from one training run"
        )

    def _scaling_of(self, feature: Dense) -> tuple[Scaling, ...]:
        known = self.features[feature.name]
        return known.scaling if isinstance(known, DenseFields) else ()


def fit_transforms(settings: DataSettings, fetch: Fetch) -> Transforms:
    """Learn vocabularies, bucket edges and scales.

    Args:
        settings: which features there are and how their values are to be treated.
        fetch: returns the values of a raw column on the train rows, and on no others.

    Raises:
        DataError: naming the column and row of a value that cannot be used.
    """
    features = settings.expanded()
    fitted: dict[str, DenseFields | IdField] = {}
    columns: dict[str, dict[str, None]] = {}
    for feature in features:
        if isinstance(feature, DenseSettings):
            scaling = tuple(_fit_column(feature, column, fetch) for column in feature.columns)
            fitted[feature.name] = DenseFields(fields=feature.columns, scaling=scaling)
        else:
            name = str(feature.name)
            is_history = not isinstance(feature, SparseSettings) and feature.history is not None
            field = name if is_history else str(feature.column)
            fitted[name] = IdField(field=field)
            if not is_history:
                columns.setdefault(str(feature.table), {})[field] = None
    encoders = {t: _fit_table(settings, t, list(names), fetch) for t, names in columns.items()}
    return Transforms(features=fitted, encoders=encoders)


def make_schema(settings: DataSettings, transforms: Transforms) -> Schema:
    """Return the schema of encoded rows; tables get as many rows as their encoder has ids."""
    tables = [
        Table(name=name, rows=encoder.rows, dim=settings.table(name).dim)
        for name, encoder in transforms.encoders.items()
    ]
    return Schema(
        features=tuple(_schema_feature(f) for f in settings.expanded()),
        tables=tuple(tables),
        tasks=(Task(name=settings.label.task),),
    )


def _schema_feature(feature: FeatureSettings) -> Feature:
    if isinstance(feature, DenseSettings):
        return Dense(name=feature.name, scope=feature.scope, width=len(feature.columns))
    name, table, scope = str(feature.name), str(feature.table), feature.scope
    if isinstance(feature, SparseSettings):
        return Sparse(name=name, table=table, scope=scope)
    if isinstance(feature, BagSettings):
        length, pooling = feature.max_length, feature.pooling
        return Bag(name=name, table=table, scope=scope, max_length=length, pooling=pooling)
    return SequenceFeature(name=name, table=table, scope=scope, max_length=feature.max_length)


def _fit_column(feature: DenseSettings, column: str, fetch: Fetch) -> Scaling:
    scaling = Scaling(fill=feature.fill, log=feature.log)
    try:
        return fit_scaling(scaling, fetch(column), standardise=feature.standardise)
    except BadValueError as error:
        raise _bad_column(column, error) from error


def _fit_table(settings: DataSettings, table: str, columns: list[str], fetch: Fetch) -> Encoder:
    listed = {
        f.column
        for f in settings.expanded()
        if isinstance(f, BagSettings | SequenceSettings) and f.history is None
    }

    def values(column: str) -> Sequence[object]:
        given = fetch(column)
        return _flatten(given, 2**63)[0] if column in listed else given

    column = columns[0]
    try:
        parts = []
        for column in columns:
            parts.append(values(column))
        return fit_encoder(settings.table(table).ids, parts)
    except BadValueError as error:
        raise _bad_column(column, error) from error


def _encode_lists(values: Sequence[object], encoder: Encoder, max_length: int) -> Ragged:
    flat, offsets = _flatten(values, max_length)
    try:
        return Ragged(encoder.encode(flat), offsets)
    except BadValueError as error:
        row = int(np.searchsorted(offsets, error.position, side="right")) - 1
        raise BadValueError(row, str(error)) from error


def _flatten(values: Sequence[object], max_length: int) -> tuple[list[Any], Any]:
    rows: list[Sequence[object]] = []
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, list | tuple):
            raise BadValueError(i, f"a list is needed, not a value of type {type(value).__name__}")
        rows.append((value or ())[-max_length:])
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return list(chain.from_iterable(rows)), offsets


def _check_records(records: Sequence[RawRecord], fields: tuple[str, ...], scope: Scope) -> None:
    expected = frozenset(fields)
    for i, record in enumerate(records):
        # The whole record at once: with 1,000 candidates this loop is the price of checking.
        if isinstance(record, dict) and record.keys() == expected:
            continue
        where = "query" if scope == Scope.QUERY else f"candidates[{i}]"
        if not isinstance(record, dict):
            raise QueryError(f"{where} must be an object of fields, not {type(record).__name__}")
        unknown = [key for key in record if key not in expected]
        if unknown:
            raise QueryError(
                f"{where} has an unknown field {ascii(unknown[0])[:80]}; its fields are "
                f"{list(fields)}"
            )
        missing = next(f for f in fields if f not in record)
        raise QueryError(f"{where} lacks the field {missing!r}; its fields are {list(fields)}")


def _bad_query(field: str, error: BadValueError) -> Exception:
    return QueryError(f"query, field {field!r}: {error}")


def _bad_candidate(field: str, error: BadValueError) -> Exception:
    return QueryError(f"candidates[{error.position}], field {field!r}: {error}")


def _bad_column(field: str, error: BadValueError) -> Exception:
    return DataError(f"column {field!r}, row {error.position}: {error}")
