"""The readable call: raw features in JSON to a query, scores to a ranked list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import (
    Column,
    Dense,
    Feature,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    TooLargeError,
    check_query,
    from_ms,
    from_seconds,
)
from headway.server.settings import ServedModel, ServerSettings
from headway.server.tensors import JSON, Headers, parse

_ID = "id"
_LONGEST_ID = 1024


class _Rank(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: dict[str, Any]
    candidates: list[dict[str, Any]]
    id: str = ""
    top_k: Annotated[int, Meta(ge=1)] | None = None
    timeout_ms: Annotated[float, Meta(gt=0)] | None = None


class _Ranked(msgspec.Struct, frozen=True):
    id: str
    model: str
    version: str
    ids: list[str | int]
    scores: list[Any]
    degraded: bool


_rank = msgspec.json.Decoder(_Rank)


@dataclass(frozen=True, slots=True)
class RankCall:
    """A checked query, what its candidates are called, and how many are wanted."""

    query: Query
    ids: list[str | int]
    top_k: int | None


class RankCodec:
    """Reads and writes rank calls of one model."""

    def __init__(self, model: ServedModel, settings: ServerSettings) -> None:
        self._model = model
        self._settings = settings
        encoder = model.transforms
        if encoder is None:
            fields = tuple(f.name for f in model.schema.of_scope(Scope.CANDIDATE))
        else:
            fields = encoder.fields(model.schema, Scope.CANDIDATE)
        self._id_is_a_feature = _ID in fields

    def decode(self, body: bytes) -> RankCall:
        """Return the call that a request's body holds.

        A candidate's key ``id`` is its name in the reply; unless the model has a feature of that
        name, it is no feature. Candidates without it go by their index.

        Raises:
            QueryError: naming the first thing that does not fit.
        """
        request = parse(_rank, body)
        settings, schema = self._settings, self._model.schema
        count = len(request.candidates)
        if count > settings.max_candidates:
            raise TooLargeError(
                f"{count} candidates are over the limit of {settings.max_candidates}; "
                "send them as several queries"
            )
        if self._id_is_a_feature:
            ids = [_name(i, c.get(_ID, i)) for i, c in enumerate(request.candidates)]
        else:
            ids = [_name(i, c.pop(_ID, i)) for i, c in enumerate(request.candidates)]
        if self._model.transforms is None:
            query = _as_encoded(request.query, request.candidates, schema)
        else:
            query = self._model.transforms.encode_query(request.query, request.candidates, schema)
        check_query(query, schema)
        timeout = None
        if request.timeout_ms is not None:
            longest = from_seconds(settings.max_timeout_s)
            timeout = min(from_ms(min(request.timeout_ms, 1e12)), longest)
        return RankCall(replace(query, id=request.id, timeout=timeout), ids, request.top_k)

    def encode(
        self, call: RankCall, scores: NDArray[np.float32], *, degraded: bool
    ) -> tuple[Headers, bytes]:
        """Return headers and body of the reply: best first by the first task, ties in order."""
        first = scores if scores.ndim == 1 else scores[:, 0]
        best = np.argsort(-first, kind="stable")[: call.top_k]
        reply = _Ranked(
            id=call.query.id,
            model=self._model.name,
            version=self._model.version,
            ids=[call.ids[i] for i in best.tolist()],
            scores=scores[best].tolist(),
            degraded=degraded,
        )
        return [JSON], msgspec.json.encode(reply)


def _name(index: int, given: object) -> str | int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and len(given) <= _LONGEST_ID:
        return given
    raise QueryError(
        f"candidates[{index}].id must be an integer or a string of at most {_LONGEST_ID} characters"
    )


def _as_encoded(query: dict[str, Any], candidates: list[dict[str, Any]], schema: Schema) -> Query:
    """Take values as ids and numbers, for a model without transforms."""
    context = _columns([query], ["query"], schema, Scope.QUERY)
    places = [f"candidates[{i}]" for i in range(len(candidates))]
    columns = _columns(candidates, places, schema, Scope.CANDIDATE)
    return Query("", context, columns, len(candidates))


def _columns(
    rows: list[dict[str, Any]], places: list[str], schema: Schema, scope: Scope
) -> dict[str, Column]:
    features = schema.of_scope(scope)
    known = {f.name for f in features}
    for row, place in zip(rows, places, strict=True):
        if row.keys() != known:
            _explain(row, place, known)
    return {f.name: _column(f, [row[f.name] for row in rows], places) for f in features}


def _explain(row: dict[str, Any], place: str, known: set[str]) -> None:
    if missing := sorted(known - row.keys()):
        raise QueryError(f"{place}: missing feature {missing[0]!r}")
    unknown = sorted(row.keys() - known)
    raise QueryError(f"{place}: unknown feature {unknown[0][:128]!r}; there are {sorted(known)}")


def _column(feature: Feature, values: list[Any], places: list[str]) -> Column:
    if isinstance(feature, Dense):
        rows = _lists(feature, values, places, (int, float), feature.width)
        with np.errstate(over="ignore"):  # infinity is refused when the query is checked
            return np.array(rows, np.float32).reshape(len(rows), feature.width)
    rows = _lists(feature, values, places, (int,), 1 if isinstance(feature, Sparse) else None)
    try:
        ragged = Ragged.from_rows(rows)
    except OverflowError as error:
        raise QueryError(f"feature {feature.name!r}: an id is beyond 64 bits") from error
    return ragged.values if isinstance(feature, Sparse) else ragged


def _lists(
    feature: Feature,
    values: list[Any],
    places: list[str],
    types: tuple[type, ...],
    width: int | None,
) -> list[list[Any]]:
    """Return each value as a list of numbers of the given width; a scalar is a list of one."""
    rows: list[list[Any]] = []
    for value, place in zip(values, places, strict=True):
        row = value if isinstance(value, list) else [value]
        right_type = all(isinstance(v, types) and not isinstance(v, bool) for v in row)
        if not right_type or (width is not None and len(row) != width):
            kind = "numbers" if float in types else "integer ids"
            raise QueryError(
                f"{place}.{feature.name} must be {width if width is not None else 'a list of'} "
                f"{kind}, not {str(value)[:64]!r}"
            )
        rows.append(row)
    return rows
