from __future__ import annotations

import pytest

from headway.core import Bag, Dense, Schema, Scope, Sparse, Table, check_query
from headway.data import (
    Buckets,
    Encoder,
    Hashing,
    Identity,
    Scaling,
    Transforms,
    Vocabulary,
    example_record,
)
from headway.data.transforms import DenseFields, IdField

ENCODERS: list[Encoder] = [
    Vocabulary(tokens=("Drama", "Comedy")),
    Vocabulary(tokens=()),
    Buckets(edges=(1.0, 5.0)),
    Hashing(buckets=8),
    Identity(rows=3),
]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_example_is_a_query_that_the_model_takes(encoder: Encoder) -> None:
    schema = Schema(
        features=(
            Dense(name="size", scope=Scope.QUERY, width=2),
            Sparse(name="kind", table="kinds", scope=Scope.QUERY),
            Bag(name="kinds", table="kinds", scope=Scope.CANDIDATE, max_length=4),
        ),
        tables=(Table(name="kinds", rows=encoder.rows, dim=4),),
    )
    transforms = Transforms(
        features={
            "size": DenseFields(fields=("wide", "high"), scaling=(Scaling(fill=2.5), Scaling())),
            "kind": IdField(field="raw_kind"),
            "kinds": IdField(field="raw_kinds"),
        },
        encoders={"kinds": encoder},
    )
    query = example_record(transforms, schema, Scope.QUERY)
    candidate = example_record(transforms, schema, Scope.CANDIDATE)
    assert list(query) == ["wide", "high", "raw_kind"]
    assert list(candidate) == ["raw_kinds"]
    check_query(transforms.encode_query(query, [candidate], schema), schema)
