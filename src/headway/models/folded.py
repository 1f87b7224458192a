"""Tables whose ids share rows, called as torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FoldedEmbedding(nn.Embedding):
    """An ``nn.Embedding`` that looks ``weight[places[ids]]`` up.

    Attributes:
        places: int64 ``[ids]``, the row of each id; a buffer.
    """

    places: Tensor

    def __init__(self, weight: Tensor, places: Tensor) -> None:
        """Take over rows.

        Args:
            weight: float ``[rows, dim]``; copied.
            places: int64 ``[ids]``, from 0 to below ``rows``.
        """
        rows, dim = weight.shape
        super().__init__(rows, dim, _weight=weight.detach().clone())
        self.register_buffer("places", places)

    def forward(self, input: Tensor) -> Tensor:
        """Return one row more an id."""
        return super().forward(self.places[input])


class FoldedBag(nn.EmbeddingBag):
    """An ``nn.EmbeddingBag`` that pools ``weight[places[ids]]``.

    Attributes:
        places: int64 ``[ids]``, the row of each id; a buffer.
    """

    places: Tensor

    def __init__(self, like: nn.EmbeddingBag, weight: Tensor, places: Tensor) -> None:
        """Take over rows.

        Args:
            like: how it pools.
            weight: float ``[rows, dim]``; copied.
            places: int64 ``[ids]``, from 0 to below ``rows``.
        """
        rows, dim = weight.shape
        super().__init__(
            rows,
            dim,
            mode=like.mode,
            include_last_offset=like.include_last_offset,
            _weight=weight.detach().clone(),
        )
        self.register_buffer("places", places)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return one vector a bag."""
        return super().forward(self.places[input], *args, **kwargs)


def rows_of(table: nn.Module, ids: Tensor) -> Tensor:
    """Return the rows of a table's ``weight`` that ids have."""
    if isinstance(table, FoldedEmbedding | FoldedBag):
        return table.places[ids]
    return ids


def fold_module(table: nn.Module, weight: Tensor, places: Tensor) -> nn.Module | None:
    """Return a folded table in place of one of torch's, or None if it does more than look up.

    Args:
        table: ``nn.Embedding`` or ``nn.EmbeddingBag``.
        weight: float ``[rows, dim]``; copied.
        places: integers ``[ids]``, from 0 to below ``rows``.
    """
    if type(table) is nn.Embedding and not (table.max_norm or table.scale_grad_by_freq):
        return FoldedEmbedding(weight, places.to(torch.int64))
    plain = type(table) is nn.EmbeddingBag and table.padding_idx is None and not table.max_norm
    if plain and isinstance(table, nn.EmbeddingBag):
        return FoldedBag(table, weight, places.to(torch.int64))
    return None
