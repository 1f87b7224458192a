"""What all ranking models are made of: tables, dense parts and plain perceptrons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name all of torch uses

from headway.core import Bag, Dense, Feature, IdFeature, Pooling, Schema, Scope
from headway.models.folded import rows_of

FeatureTensors = Mapping[str, Tensor | tuple[Tensor, Tensor]]
"""What ``forward`` takes: ``core.model_inputs`` as tensors."""

INITIAL_DEVIATION = 0.05
"""Small beside what training reaches, so that ids never seen stay close to neutral."""


class RankingModel(nn.Module):
    """A module with one parameter per table of its schema, looked up straight from its inputs."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.tables = nn.ModuleDict()
        for table in schema.tables:
            weight = torch.randn(table.rows, table.dim).mul_(INITIAL_DEVIATION)
            self.tables[table_key(table.name)] = nn.Embedding(table.rows, table.dim, _weight=weight)

    def table(self, name: str) -> nn.Embedding:
        """Return the module that holds a table of the schema."""
        return cast("nn.Embedding", self.tables[table_key(name)])

    def rows(self, feature: IdFeature, ids: Tensor) -> Tensor:
        """Return the embeddings of ids: one more axis, as long as the table's dim."""
        table = self.table(feature.table)
        places = rows_of(table, ids)
        return F.embedding(places, table.weight, sparse=table.sparse and self.training)

    def vector(self, feature: IdFeature, value: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return one vector a row, ``[rows, dim]``: bags pooled, sequences averaged."""
        if isinstance(value, Tensor):
            return self.rows(feature, value)
        if isinstance(feature, Bag):
            return self._pool(feature, *value)
        ids, mask = value
        total = torch.bmm(mask.unsqueeze(1), self.rows(feature, ids)).squeeze(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1.0)

    def vectors(self, features: FeatureTensors) -> list[Tensor]:
        """Return one vector a row for each feature with ids, in the schema's order."""
        return [self.vector(f, features[f.name]) for f in self.schema.id_features()]

    def parts(
        self, features: FeatureTensors, known: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """Return ``[rows, width]`` for each feature in the schema's order.

        Args:
            features: what ``forward`` was given.
            known: for features that the model has made a vector of itself.
        """
        known = known or {}
        return [
            known[f.name] if f.name in known else self._part(f, features[f.name])
            for f in self.schema.features
        ]

    def _part(self, feature: Feature, value: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return cast("Tensor", value) if isinstance(feature, Dense) else self.vector(feature, value)

    def _pool(self, bag: Bag, values: Tensor, offsets: Tensor) -> Tensor:
        table = self.table(bag.table)
        return F.embedding_bag(
            rows_of(table, values),
            table.weight,
            offsets,
            mode="mean" if bag.pooling is Pooling.MEAN else "sum",
            sparse=table.sparse and self.training,
            include_last_offset=True,
        )


class BottomMlps(nn.ModuleDict):
    """One perceptron over the dense features of each scope that has any.

    Scopes do not share one, so that the query's runs once per query.
    """

    def __init__(self, schema: Schema, widths: Sequence[int]) -> None:
        super().__init__()
        self._names = {
            scope.value: [f.name for f in schema.dense_features(scope)] for scope in Scope
        }
        for scope in Scope:
            width = sum(f.width for f in schema.dense_features(scope))
            if width:
                self[scope.value] = perceptron(width, widths)

    def forward(self, features: FeatureTensors) -> list[Tensor]:
        """Return one output ``[rows, last width]`` per scope."""
        return [
            mlp(torch.cat([cast("Tensor", features[n]) for n in self._names[scope]], dim=1))
            for scope, mlp in self.items()
        ]


def table_key(name: str) -> str:
    """Return the key of a table in ``RankingModel.tables``.

    It is the table's own name, but for names that ``ModuleDict`` keeps for itself (``items``).
    """
    return f"{name}-table" if hasattr(nn.ModuleDict(), name) else name


def width_of(feature: Feature, schema: Schema) -> int:
    """Return how many columns a feature brings to a concatenation."""
    return feature.width if isinstance(feature, Dense) else schema.table(feature.table).dim


def perceptron(
    width: int, hidden: Sequence[int], *, dropout: float = 0.0, activation: str = "relu"
) -> nn.Sequential:
    """Return linear layers of the given widths, each followed by its activation and dropout."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.PReLU() if activation == "prelu" else nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers)


def head(width: int, hidden: Sequence[int], tasks: int, dropout: float) -> nn.Sequential:
    """Return a perceptron that ends in one raw output per task."""
    body = perceptron(width, hidden, dropout=dropout)
    return nn.Sequential(*body, nn.Linear(hidden[-1] if hidden else width, tasks))
