"""DCN-v2: explicit feature crosses of low rank, below an MLP."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from headway.core import Schema
from headway.models.dlrm import Rate, Width
from headway.models.layers import BottomMlps, FeatureTensors, RankingModel, head


class DcnV2Settings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="dcn_v2",
):
    """The shape of a DCN-v2, which with a bottom MLP is the model of MLPerf's DLRM-v2.

    Attributes:
        bottom_mlp: widths over the dense features, one such MLP per scope that has any.
        cross_layers: how many times the inputs are crossed.
        cross_rank: width between the two factors of a cross layer's matrix.
        predict_mlp: hidden widths over the crossed vector.
        dropout: share of the predict MLP's hidden units dropped in training.
    """

    bottom_mlp: Annotated[tuple[Width, ...], Meta(min_length=1)] = (64, 32)
    cross_layers: Annotated[int, Meta(ge=1, le=16)] = 3
    cross_rank: Width = 64
    predict_mlp: tuple[Width, ...] = (128, 64)
    dropout: Rate = 0.0


class Cross(nn.Module):
    """``x0 * (U V x + b) + x``: Wang et al., "DCN V2", 2021, equation 2."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, first: Tensor, current: Tensor) -> Tensor:
        """Return the next vector ``[rows, width]`` from the inputs and the one before."""
        crossed: Tensor = self.up(self.down(current))
        return first * crossed + current


class DcnV2(RankingModel):
    """Wang et al., "DCN V2", 2021, section 3, stacked: crosses below the MLP."""

    def __init__(self, settings: DcnV2Settings, schema: Schema) -> None:
        super().__init__(schema)
        self.bottom = BottomMlps(schema, settings.bottom_mlp)
        width = settings.bottom_mlp[-1] * len(self.bottom)
        width += sum(schema.table(f.table).dim for f in schema.id_features())
        self.crosses = nn.ModuleList(
            Cross(width, settings.cross_rank) for _ in range(settings.cross_layers)
        )
        self.predict = head(width, settings.predict_mlp, len(schema.tasks), settings.dropout)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        first = torch.cat([*self.bottom(features), *self.vectors(features)], dim=1)
        current = first
        for cross in self.crosses:
            current = cross(first, current)
        output: Tensor = self.predict(current)
        return output
