"""Shares of time by kind of operator, as DeepRecSys published them."""

from __future__ import annotations

import msgspec

PUBLISHED_ROWS = (1, 64, 1024)
"""Batch sizes that were published."""


class PublishedShares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of a CPU's time, 0 to 1; None where no figure was given.

    Attributes:
        embedding: table lookups (SparseLengthsSum).
        dense: fully connected layers; those of DIN's attention are among them.
        attention: the softmax over a history.
        recurrent: recurrent layers.
        other: concatenation, activations, sums.
    """

    embedding: float | None = None
    dense: float | None = None
    attention: float | None = None
    recurrent: float | None = None
    other: float | None = None


def _over_rows(**percent: tuple[float, float, float]) -> dict[int, PublishedShares]:
    """Return the shares at 1, 64 and 1024 rows from per cents."""
    return {
        rows: PublishedShares(**{kind: values[i] / 100 for kind, values in percent.items()})
        for i, rows in enumerate(PUBLISHED_ROWS)
    }


PUBLISHED_SHARES: dict[str, dict[int, PublishedShares]] = {
    "ncf": _over_rows(embedding=(10, 3, 7), dense=(73, 90, 83), other=(16, 7, 10)),
    "wnd": _over_rows(dense=(94, 96, 95)),
    "mt-wnd": _over_rows(dense=(94, 95, 95)),
    "rmc1": _over_rows(embedding=(30, 78, 78), dense=(59, 20, 19)),
    "rmc2": _over_rows(embedding=(70, 92, 90), dense=(26, 7, 9)),
    "rmc3": _over_rows(embedding=(2, 5, 5), dense=(97.5, 94, 93)),
    "din": _over_rows(embedding=(12, 6, 10), dense=(58, 79, 74), other=(14, 9, 10)),
    "dien": _over_rows(dense=(2, 16, 31), attention=(0.4, 6, 12), recurrent=(96, 74, 50)),
}
"""Model of the zoo to batch size to shares: the result files of DeepRecSys (ISCA 2020), CPU.

Its DIN ran with one behaviour table and its DIEN with plain recurrent layers, so the shapes are
those of ``repo`` only nearly. DCN-v2 was not among its models.
"""
