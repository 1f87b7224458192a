"""How a history is weighed by the candidate: DIN's attention unit, DIEN's softmax, their frame."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch
from torch import Tensor, nn

from headway.core import Schema, Scope, Sequence, Sparse, UsageError
from headway.models.layers import FeatureTensors, RankingModel, perceptron

_FAR_BELOW = 1e9
"""Taken from the score of padding before a softmax; finite, so that an empty history is no NaN."""


class AttentionUnit(nn.Module):
    """Zhou et al., "Deep Interest Network", 2018, section 4.3: a sum of weighted positions.

    The weights are not normalised, so that their sum tells how strong an interest is.
    """

    def __init__(self, dim: int, hidden: Many[int], activation: str) -> None:
        super().__init__()
        last = hidden[-1] if hidden else 4 * dim
        self.score = nn.Sequential(
            *perceptron(4 * dim, hidden, activation=activation), nn.Linear(last, 1)
        )

    def forward(self, history: Tensor, candidate: Tensor, mask: Tensor) -> Tensor:
        """Return the interest ``[rows, dim]`` in a candidate.

        Args:
            history: float32 ``[rows, length, dim]``.
            candidate: float32 ``[rows, dim]``.
            mask: float32 ``[rows, length]``, 1 where there is an id.
        """
        wide = candidate.unsqueeze(1).expand_as(history)
        pairs = torch.cat([history, wide, history - wide, history * wide], dim=2)
        scores: Tensor = self.score(pairs)
        weights = scores.squeeze(2) * mask
        return torch.bmm(weights.unsqueeze(1), history).squeeze(1)


class InterestAttention(nn.Module):
    """Zhou et al., "Deep Interest Evolution Network", 2019, equation 8: ``softmax(h W e)``."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, dim, bias=False)

    def forward(self, states: Tensor, candidate: Tensor, mask: Tensor) -> Tensor:
        """Return weights ``[rows, length]`` that sum to 1 over a history, all 0 for an empty one.

        Args:
            states: float32 ``[rows, length, hidden]``.
            candidate: float32 ``[rows, dim]``.
            mask: float32 ``[rows, length]``, 1 where there is an id.
        """
        scores = torch.bmm(self.project(states), candidate.unsqueeze(2)).squeeze(2)
        return torch.softmax(scores + (mask - 1.0) * _FAR_BELOW, dim=1) * mask


class AttendingModel(RankingModel):
    """Scores the concatenation of all features, each sequence seen from its candidate.

    Each sequence is attended to by the first candidate-level sparse feature of its table.

    Attributes:
        attending: that feature, by the sequence's name.
        predict: the perceptron over everything; a subclass sets it.
    """

    predict: nn.Module

    def __init__(self, model: str, schema: Schema) -> None:
        super().__init__(schema)
        self.attending = attended_by(model, schema)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Return raw outputs, float32 ``[rows, tasks]``."""
        interests = {name: self._seen(name, features) for name in self.attending}
        output: Tensor = self.predict(torch.cat(self.parts(features, interests), dim=1))
        return output

    def interest(self, name: str, history: Tensor, candidate: Tensor, mask: Tensor) -> Tensor:
        """Return the interest in a candidate, ``[rows, width]``; a subclass says how.

        Args:
            name: of the sequence.
            history: float32 ``[rows, length, dim]``, padding last.
            candidate: float32 ``[rows, dim]``.
            mask: float32 ``[rows, length]``, 1 where there is an id.
        """
        raise NotImplementedError

    def _seen(self, name: str, features: FeatureTensors) -> Tensor:
        ids, mask = features[name]
        item = self.attending[name]
        # Both share the item's table.
        history, candidate = self.rows(item, ids), self.vector(item, features[item.name])
        return self.interest(name, history, candidate, mask)


def attended_by(model: str, schema: Schema) -> dict[str, Sparse]:
    """Return for each sequence the first candidate-level sparse feature of its table.

    Args:
        model: for the message.
        schema: of the model.

    Raises:
        UsageError: if there is no sequence, or one that nothing can attend to.
    """
    pairs: dict[str, Sparse] = {}
    candidates = [f for f in schema.of_scope(Scope.CANDIDATE) if isinstance(f, Sparse)]
    for sequence in (f for f in schema.features if isinstance(f, Sequence)):
        partners = [f for f in candidates if f.table == sequence.table]
        if not partners:
            raise UsageError(
                f"{model} needs a candidate-level sparse feature of the table {sequence.table!r} "
                f"to attend to the sequence {sequence.name!r}; there are "
                f"{[f.name for f in candidates]}"
            )
        pairs[sequence.name] = partners[0]
    if not pairs:
        raise UsageError(
            f"{model} needs a sequence feature; declare one or use the model wide_deep"
        )
    return pairs
