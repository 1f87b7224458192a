"""DIN: the user's history weighted by an attention unit that sees the candidate."""

from __future__ import annotations

from typing import Literal

import msgspec
from torch import Tensor, nn

from headway.core import Schema
from headway.models.attention import AttendingModel, AttentionUnit
from headway.models.dlrm import Rate, Width
from headway.models.layers import head, width_of


class DinSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="din",
):
    """The shape of a DIN.

    Attributes:
        attention_mlp: hidden widths of the attention unit.
        predict_mlp: hidden widths over all vectors and dense features.
        activation: of the attention unit.
        dropout: share of the predict MLP's hidden units dropped in training.
    """

    attention_mlp: tuple[Width, ...] = (64, 32)
    predict_mlp: tuple[Width, ...] = (200, 80)
    activation: Literal["relu", "prelu"] = "relu"
    dropout: Rate = 0.0


class Din(AttendingModel):
    """Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", 2018, section 4."""

    def __init__(self, settings: DinSettings, schema: Schema) -> None:
        super().__init__("din", schema)
        self.attention = nn.ModuleDict()
        for name, item in self.attending.items():
            dim = schema.table(item.table).dim
            self.attention[f"unit_{name}"] = AttentionUnit(
                dim, settings.attention_mlp, settings.activation
            )
        width = sum(width_of(f, schema) for f in schema.features)
        self.predict = head(width, settings.predict_mlp, len(schema.tasks), settings.dropout)

    def interest(self, name: str, history: Tensor, candidate: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted sum of a sequence's embeddings, ``[rows, dim]``."""
        interest: Tensor = self.attention[f"unit_{name}"](history, candidate, mask)
        return interest
