"""The rewrites by name, so that each can be left out and measured."""

from __future__ import annotations

from enum import StrEnum


class Rewrite(StrEnum):
    """A way in which work leaves the candidate tower; each is exact in real arithmetic."""

    HOIST = "hoist"
    """What depends on the query alone runs once per query."""
    SPLIT_LINEAR = "split-linear"
    """A linear map of a concatenation or sum acts on the query's part once."""
    BLOCKS = "blocks"
    """Element-wise functions, norms and sums act on each part of a concatenation."""
    PRODUCTS = "products"
    """A product of a query's and a candidate's value waits for the linear map after it."""
    DOTS = "dots"
    """Dot products of all pairs: those of the query's vectors once."""
    ATTENTION = "attention"
    """Attention over a query's history: one product with a matrix built once per query."""
    MERGE_LINEAR = "merge-linear"
    """Two linear maps with nothing between them become one, where that is less work."""


ALL = frozenset(Rewrite)
