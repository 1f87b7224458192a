"""NCF: the product of two embeddings beside an MLP over others."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from headway.core import Dense, Name, Schema, UsageError
from headway.models.dlrm import Rate, Width
from headway.models.layers import FeatureTensors, RankingModel, head, perceptron, width_of


class NcfSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="ncf",
):
    """The shape of an NCF.

    Attributes:
        factors: the two features, one of the user and one of the item, whose vectors are
            multiplied element by element (generalised matrix factorisation).
        mlp: widths over all other features side by side.
        predict_mlp: hidden widths over the product and the MLP's output.
        dropout: share of the MLP's hidden units dropped in training.
    """

    factors: tuple[Name, Name]
    mlp: tuple[Width, ...] = (256, 256, 128)
    predict_mlp: tuple[Width, ...] = ()
    dropout: Rate = 0.0


class Ncf(RankingModel):
    """He et al., "Neural Collaborative Filtering", 2017, section 3.4 (NeuMF)."""

    def __init__(self, settings: NcfSettings, schema: Schema) -> None:
        super().__init__(schema)
        self.factors = settings.factors
        dim = _factor_dim(settings.factors, schema)
        rest = [f for f in schema.features if f.name not in settings.factors]
        if not rest:
            raise UsageError(
                f"ncf needs features beside the factors {list(settings.factors)} for its MLP; "
                "give it a second pair of ids with tables of their own"
            )
        width = sum(width_of(f, schema) for f in rest)
        self.mlp = perceptron(width, settings.mlp, dropout=settings.dropout)
        joined = dim + (settings.mlp[-1] if settings.mlp else width)
        self.predict = head(joined, settings.predict_mlp, len(schema.tasks), 0.0)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        parts = dict(zip([f.name for f in self.schema.features], self.parts(features), strict=True))
        product = parts.pop(self.factors[0]) * parts.pop(self.factors[1])
        deep = self.mlp(torch.cat(list(parts.values()), dim=1))
        output: Tensor = self.predict(torch.cat([product, deep], dim=1))
        return output


def _factor_dim(factors: tuple[str, str], schema: Schema) -> int:
    """Return the width of the two factors."""
    if factors[0] == factors[1]:
        raise UsageError(f"ncf multiplies two features, but both factors are {factors[0]!r}")
    widths = {}
    for name in factors:
        feature = schema.feature(name)
        if isinstance(feature, Dense):
            raise UsageError(f"the factor {name!r} of ncf is dense; name a feature with ids")
        widths[name] = width_of(feature, schema)
    if len(set(widths.values())) > 1:
        raise UsageError(f"the factors of ncf must have one dim; got {widths}; make them equal")
    return widths[factors[0]]
