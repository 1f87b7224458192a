"""Wide & Deep: a linear model and an MLP over the same inputs, added."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from headway.core import Schema
from headway.models.dlrm import Rate, Width
from headway.models.layers import FeatureTensors, RankingModel, head, width_of


class WideDeepSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="wide_deep",
):
    """The shape of a Wide & Deep model.

    Attributes:
        deep_mlp: hidden widths of the deep part.
        dropout: share of the deep part's hidden units dropped in training.
    """

    deep_mlp: tuple[Width, ...] = (256, 128)
    dropout: Rate = 0.0


class WideDeep(RankingModel):
    """Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016, section 3.

    The wide part is linear in the vectors of the ids, not in one-hot ids: the same functions
    for any table (the weight of id i is ``w . e_i``), with no second set of tables to serve.
    """

    def __init__(self, settings: WideDeepSettings, schema: Schema) -> None:
        super().__init__(schema)
        width = sum(width_of(f, schema) for f in schema.features)
        self.wide = nn.Linear(width, len(schema.tasks), bias=False)
        self.deep = head(width, settings.deep_mlp, len(schema.tasks), settings.dropout)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        together = torch.cat(self.parts(features), dim=1)
        output: Tensor = self.wide(together) + self.deep(together)
        return output
