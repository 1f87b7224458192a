"""Adagrad on the rows of tables that a batch has touched."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

SPARSE_FROM = 32_768
"""Rows from which a table's gradient is sparse: below, adding into a whole table is cheaper than
sorting the ids of a batch."""


class TableAdagrad:
    """Steps each touched row by its own history of gradients; other rows stay as they are.

    Duchi et al., "Adaptive Subgradient Methods", JMLR 2011. A step costs as much as the batch
    has ids, whatever the size of the table, and an id seen once moves by one learning rate.

    Weight decay acts on touched rows only: it is the gradient of ``decay / 2 * |row|^2`` for
    each row of the batch, so that frequent ids are not held closer to zero than rare ones.
    """

    def __init__(
        self,
        tables: Iterable[nn.Embedding | nn.EmbeddingBag],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self.learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._tables = list(tables)
        self._sums = [torch.zeros_like(table.weight) for table in self._tables]
        for table in self._tables:
            table.sparse = table.num_embeddings >= SPARSE_FROM

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for table in self._tables:
            table.weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the rows that have a gradient."""
        for table, sums in zip(self._tables, self._sums, strict=True):
            gradient = table.weight.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                self._step_rows(table.weight, sums, gradient.indices()[0], gradient.values())
            else:
                rows = gradient.any(dim=1).nonzero().squeeze(1)
                self._step_rows(table.weight, sums, rows, gradient[rows])

    def _step_rows(self, weight: Tensor, sums: Tensor, rows: Tensor, step: Tensor) -> None:
        old = weight[rows]
        if self._weight_decay:
            step = step.add(old, alpha=self._weight_decay)
        seen = sums[rows].addcmul_(step, step)
        sums[rows] = seen
        weight[rows] = old.addcdiv_(step, seen.sqrt_().add_(1e-10), value=-self.learning_rate)
