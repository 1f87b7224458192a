"""A raw record as a client would send it, made up from what training has kept."""

from __future__ import annotations

from headway.core import Dense, Schema, Scope, Sparse
from headway.data.encoders import Buckets, Encoder, Identity, Vocabulary
from headway.data.transforms import DenseFields, Transforms

RawValue = str | float | list[str | float]


def example_record(transforms: Transforms, schema: Schema, scope: Scope) -> dict[str, RawValue]:
    """Return values that the model accepts, by raw field: tokens it knows, numbers it has seen.

    Args:
        transforms: of the model.
        schema: of the model.
        scope: of a query's own fields, or of each candidate's.
    """
    record: dict[str, RawValue] = {}
    for feature in schema.of_scope(scope):
        known = transforms.features[feature.name]
        if isinstance(known, DenseFields):
            record |= {f: s.fill for f, s in zip(known.fields, known.scaling, strict=True)}
        elif not isinstance(feature, Dense):
            value = _value(transforms.encoders[feature.table])
            record[known.field] = value if isinstance(feature, Sparse) else [value]
    return record


def _value(encoder: Encoder) -> str | float:
    match encoder:
        case Vocabulary(tokens=tokens):
            return tokens[0] if tokens else ""
        case Buckets(edges=edges):
            return edges[len(edges) // 2] if edges else 0.0
        case Identity():
            return "0"
        case _:
            return "a"
