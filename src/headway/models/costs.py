"""What a model costs per candidate before anything is hoisted: operations, rows, bytes."""

from __future__ import annotations

from collections.abc import Sequence as Many

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headway.core import IdFeature, Schema, Scope, Sparse, take_rows
from headway.models.batches import TensorFeatures, tensors
from headway.models.build import build_model
from headway.models.presets import ZooModel
from headway.workload import Skew, draw_queries

_ROWS = 4
_BYTES = 4  # float32


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What scoring one candidate takes of an unchanged float32 model, lists at full length.

    Attributes:
        flops: two for each multiply-add of a matrix product; nothing else is counted.
        lookups: rows of tables that are read.
        embedding_bytes: in those rows.
        candidate_embedding_bytes: of them, what candidate-level features read; the rest is
            needed once per query only.
        dense_parameters: outside the tables.
        table_parameters: in the tables.
    """

    flops: int
    lookups: int
    embedding_bytes: int
    candidate_embedding_bytes: int
    dense_parameters: int
    table_parameters: int


def zoo_cost(model: ZooModel) -> Cost:
    """Return the cost of a zoo model; tables of any size take no memory for it."""
    with torch.device("meta"):
        module = build_model(model.settings, model.schema)
    return count_cost(module, model.schema)


def count_cost(model: nn.Module, schema: Schema) -> Cost:
    """Return the cost of a model, which may lie on torch's ``meta`` device.

    It is put into evaluation mode and called once.
    """
    features = draw_features(schema, _ROWS, np.random.default_rng(0))
    device = next(model.parameters()).device
    moved = {name: _to(value, device) for name, value in features.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(moved)
    modules = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    tables = sum(module.weight.numel() for module in set(modules))
    return Cost(
        flops=counter.get_total_flops() // _ROWS,
        lookups=sum(map(_lookups, schema.id_features())),
        embedding_bytes=_bytes(schema, schema.id_features()),
        candidate_embedding_bytes=_bytes(schema, schema.id_features(Scope.CANDIDATE)),
        dense_parameters=sum(p.numel() for p in model.parameters()) - tables,
        table_parameters=tables,
    )


def draw_features(
    schema: Schema,
    rows: int,
    rng: np.random.Generator,
    *,
    ids: Skew = "zipf",
    exponent: float = 1.05,
) -> TensorFeatures:
    """Return what ``forward`` takes for one drawn query, its context repeated per candidate.

    Bags and histories have their full length, as in the published loads.

    Args:
        schema: of the model.
        rows: candidates.
        rng: source of chance.
        ids: ``zipf``, or ``uniform``, the worst case for caches.
        exponent: of the Zipf law.
    """
    (query,) = draw_queries(
        schema, np.array([rows]), rng, ids=ids, exponent=exponent, lengths="full"
    )
    context = take_rows(query.context, np.zeros(rows, np.int64))
    return tensors({**context, **query.candidates}, schema)


def _lookups(feature: IdFeature) -> int:
    return 1 if isinstance(feature, Sparse) else feature.max_length


def _bytes(schema: Schema, features: Many[IdFeature]) -> int:
    return sum(_lookups(f) * schema.table(f.table).dim * _BYTES for f in features)


def _to(
    value: Tensor | tuple[Tensor, Tensor], device: torch.device
) -> Tensor | tuple[Tensor, Tensor]:
    if isinstance(value, tuple):
        return value[0].to(device), value[1].to(device)
    return value.to(device)
