"""Tables whose ids share records: which record each id has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError

CODE_TYPES: dict[int, str] = {1: "<u1", 2: "<u2", 4: "<u4"}
"""By their bytes, the numbers that a fold is made of."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Which record each id of a table has, where several ids share one.

    Ids below ``hot`` have the record of their own number, id ``i`` from there on has record
    ``hot + codes[i - hot]``, or ``hot`` where there are no codes. Where ids stand in order of
    frequency, those worth a record of their own so cost nothing, and the others only as many
    bytes as the records they share need: none where they share a single one.

    Records are not added up from two tables, as in Shi et al., "Compositional Embeddings Using
    Complementary Partitions" (KDD 2020): a map may give any id any record, so that a trained
    table can be folded by what its rows are like, which sums of two rows cannot follow without
    training anew; and one read per id stays one.

    Attributes:
        ids: how many have a record.
        hot: ids that have a record of their own number.
        codes: unsigned numbers of 1, 2 or 4 bytes ``[ids - hot]``, C-contiguous; or empty.
    """

    ids: int
    hot: int
    codes: NDArray[Any]

    @classmethod
    def of(cls, places: NDArray[np.int64]) -> Fold:
        """Return the smallest fold that gives each id its place.

        Args:
            places: record of each id ``[ids]``.

        Raises:
            UsageError: if there are none, or one is negative or beyond 4 bytes.
        """
        if places.ndim != 1 or not len(places) or places.min() < 0 or places.max() >= 2**32:
            raise UsageError(
                f"a fold needs one record number from 0 to {2**32 - 1} for each id, not an array "
                f"of shape {list(places.shape)} with other numbers"
            )
        own = places == np.arange(len(places))
        hot = len(places) if own.all() else int(np.argmin(own))
        # A record below hot that another id shares could not be told by a number from hot on.
        hot = min(hot, int(places[hot:].min(initial=hot)))
        codes = places[hot:] - hot
        largest = int(codes.max(initial=0))
        if not largest:
            return cls(len(places), hot, np.zeros(0, np.uint8))
        size = next(size for size in CODE_TYPES if largest < 1 << 8 * size)
        return cls(len(places), hot, codes.astype(CODE_TYPES[size]))

    @property
    def code_bytes(self) -> int:
        """Bytes of a code; 0 where there are none."""
        return self.codes.itemsize if len(self.codes) else 0

    def records(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the record of each of some ids, all of them known."""
        found = ids.copy()
        late = ids >= self.hot
        found[late] = self.hot
        if len(self.codes):
            found[late] += self.codes[ids[late] - self.hot]
        return found

    def check(self, ids: int, records: int) -> None:
        """Accept a fold that gives each id of a table one of its records.

        Raises:
            UsageError: saying what does not fit.
        """
        if self.ids != ids:
            raise UsageError(f"its fold is of {self.ids} ids, the schema says {ids}")
        if len(self.codes) not in {0, ids - self.hot}:
            raise UsageError(f"its fold has {len(self.codes)} codes, not {ids - self.hot}")
        last = self.hot - 1 if ids == self.hot else self.hot + int(self.codes.max(initial=0))
        if last >= records:
            raise UsageError(f"its fold leads to record {last}, it has only {records}")
