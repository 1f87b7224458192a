"""DIN: the user's history weighted by an attention unit that sees the candidate."""

from __future__ import annotations

from typing import Literal, cast

import msgspec
import torch
from torch import Tensor, nn

from headway.core import Dense, Schema, Scope, Sequence, Sparse, UsageError
from headway.models.dlrm import Rate, Width
from headway.models.layers import FeatureTensors, RankingModel, head, perceptron, width_of


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


class Din(RankingModel):
    """Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", 2018, section 4.3.

    Each sequence is attended to by the first candidate-level sparse feature of its table. The
    weights are not normalised, so that their sum tells how strong an interest is.
    """

    def __init__(self, settings: DinSettings, schema: Schema) -> None:
        super().__init__(schema)
        self.attending = _pair(schema)
        self.attention = nn.ModuleDict()
        for name in self.attending:
            dim = schema.table(cast("Sequence", schema.feature(name)).table).dim
            hidden = settings.attention_mlp
            self.attention[f"unit_{name}"] = nn.Sequential(
                *perceptron(4 * dim, hidden, activation=settings.activation),
                nn.Linear(hidden[-1] if hidden else 4 * dim, 1),
            )
        width = sum(width_of(f, schema) for f in schema.features)
        self.predict = head(width, settings.predict_mlp, len(schema.tasks), settings.dropout)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        parts: list[Tensor] = []
        for feature in self.schema.features:
            value = features[feature.name]
            if isinstance(feature, Dense):
                parts.append(cast("Tensor", value))
            elif isinstance(feature, Sequence):
                parts.append(self._interest(feature, features))
            else:
                parts.append(self.vector(feature, value))
        output: Tensor = self.predict(torch.cat(parts, dim=1))
        return output

    def _interest(self, sequence: Sequence, features: FeatureTensors) -> Tensor:
        """Return the weighted sum of a sequence's embeddings, ``[rows, dim]``."""
        ids, mask = features[sequence.name]
        item = self.attending[sequence.name]
        history = self.rows(sequence, ids)
        candidate = self.vector(item, features[item.name]).unsqueeze(1).expand_as(history)
        pairs = [history, candidate, history - candidate, history * candidate]
        scores: Tensor = self.attention[f"unit_{sequence.name}"](torch.cat(pairs, dim=2))
        weights = scores.squeeze(2) * mask
        return torch.bmm(weights.unsqueeze(1), history).squeeze(1)


def _pair(schema: Schema) -> dict[str, Sparse]:
    """Return for each sequence the candidate-level sparse feature that attends to it."""
    pairs: dict[str, Sparse] = {}
    candidates = [f for f in schema.of_scope(Scope.CANDIDATE) if isinstance(f, Sparse)]
    for sequence in (f for f in schema.features if isinstance(f, Sequence)):
        partners = [f for f in candidates if f.table == sequence.table]
        if not partners:
            raise UsageError(
                f"din needs a candidate-level sparse feature of the table {sequence.table!r} to "
                f"attend to the sequence {sequence.name!r}; there are {[f.name for f in candidates]}"
            )
        pairs[sequence.name] = partners[0]
    if not pairs:
        raise UsageError("din needs a sequence feature; declare one or use the model dlrm")
    return pairs
