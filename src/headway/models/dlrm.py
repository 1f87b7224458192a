"""DLRM: dense features through an MLP, ids through tables, interactions between them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from headway.core import Schema, UsageError
from headway.models.layers import BottomMlps, FeatureTensors, RankingModel, head

Width = Annotated[int, Meta(ge=1, le=65_536)]
Rate = Annotated[float, Meta(ge=0.0, lt=1.0)]


class DlrmSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="dlrm",
):
    """The shape of a DLRM.

    Attributes:
        bottom_mlp: widths over the dense features, one such MLP per scope that has any.
        predict_mlp: hidden widths over the interactions; the output layer comes on top.
        interaction: what the predict MLP sees of the vectors: all of them side by side
            (``concat``), or the dot product of every two and the bottom outputs (``dot``).
        dropout: share of the predict MLP's hidden units dropped in training.
    """

    bottom_mlp: Annotated[tuple[Width, ...], Meta(min_length=1)] = (64, 32)
    predict_mlp: tuple[Width, ...] = (128, 64)
    interaction: Literal["concat", "dot"] = "concat"
    dropout: Rate = 0.0


class Dlrm(RankingModel):
    """Naumov et al., "Deep Learning Recommendation Model", 2019, arXiv 1906.00091, section 2."""

    def __init__(self, settings: DlrmSettings, schema: Schema) -> None:
        super().__init__(schema)
        self.interaction = settings.interaction
        self.bottom = BottomMlps(schema, settings.bottom_mlp)
        bottom_width = settings.bottom_mlp[-1]
        dims = [bottom_width] * len(self.bottom)
        dims += [schema.table(f.table).dim for f in schema.id_features()]
        if settings.interaction == "dot":
            width = _width_of_dots(dims, schema) + bottom_width * len(self.bottom)
        else:
            width = sum(dims)
        self.predict = head(width, settings.predict_mlp, len(schema.tasks), settings.dropout)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        bottoms: list[Tensor] = self.bottom(features)
        vectors = bottoms + self.vectors(features)
        if self.interaction == "dot":
            vectors = [*bottoms, *_dots(vectors)]
        output: Tensor = self.predict(torch.cat(vectors, dim=1))
        return output


def _dots(vectors: list[Tensor]) -> list[Tensor]:
    """Return the dot products of vector i with all before it, ``[rows, i]``, for each i."""
    stacked = torch.stack(vectors, dim=1)
    products = torch.bmm(stacked, stacked.transpose(1, 2))
    return [products[:, i, :i] for i in range(1, len(vectors))]


def _width_of_dots(dims: list[int], schema: Schema) -> int:
    if len(dims) < 2:
        raise UsageError(
            "the interaction 'dot' needs at least two vectors; this schema gives "
            f"{len(dims)}; use the interaction 'concat'"
        )
    if len(set(dims)) > 1:
        tables = ", ".join(f"{t.name} {t.dim}" for t in schema.tables)
        raise UsageError(
            "the interaction 'dot' needs tables of one dim, which is also the last width of "
            f"bottom_mlp; got the widths {sorted(set(dims))} (tables: {tables}); "
            "make them equal or use the interaction 'concat'"
        )
    return sum(range(len(dims)))
