"""DIEN: interests extracted from the history by a GRU, evolved towards the candidate by another."""

from __future__ import annotations

import msgspec
from torch import Tensor, nn

from headway.core import Schema
from headway.models.attention import AttendingModel, InterestAttention
from headway.models.dlrm import Rate, Width
from headway.models.layers import head, width_of
from headway.models.recurrent import Augru


class DienSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="dien",
):
    """The shape of a DIEN.

    Attributes:
        hidden: width of the states of both recurrent layers.
        predict_mlp: hidden widths over all vectors and dense features.
        dropout: share of the predict MLP's hidden units dropped in training.
    """

    hidden: Width = 64
    predict_mlp: tuple[Width, ...] = (200, 80)
    dropout: Rate = 0.0


class Dien(AttendingModel):
    """Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", 2019.

    The auxiliary loss of section 4.2, which needs clicks that did not happen, is left to the
    caller.
    """

    def __init__(self, settings: DienSettings, schema: Schema) -> None:
        super().__init__("dien", schema)
        hidden = settings.hidden
        self.extraction, self.attention = nn.ModuleDict(), nn.ModuleDict()
        self.evolution = nn.ModuleDict()
        for name, item in self.attending.items():
            dim = schema.table(item.table).dim
            self.extraction[f"of_{name}"] = nn.GRU(dim, hidden, batch_first=True)
            self.attention[f"of_{name}"] = InterestAttention(hidden, dim)
            self.evolution[f"of_{name}"] = Augru(hidden, hidden)
        width = sum(
            hidden if f.name in self.attending else width_of(f, schema) for f in schema.features
        )
        self.predict = head(width, settings.predict_mlp, len(schema.tasks), settings.dropout)

    def interest(self, name: str, history: Tensor, candidate: Tensor, mask: Tensor) -> Tensor:
        """Return the interest a history has come to, seen from the candidate, ``[rows, hidden]``."""
        # Padding comes last, so no state of an id has seen any.
        states, _ = self.extraction[f"of_{name}"](history)
        weights = self.attention[f"of_{name}"](states, candidate, mask)
        interest: Tensor = self.evolution[f"of_{name}"](states, weights)
        return interest
