"""How long one call takes for how many candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, Ns
from headway.measure.latency import STANDARD_PERCENTILES


class LatencyProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured service times by number of candidates.

    Attributes:
        rows: numbers of candidates, rising.
        percentiles: rising, in per cent.
        ns: one tuple per entry of ``rows``, one duration per percentile.
    """

    rows: tuple[int, ...]
    percentiles: tuple[float, ...]
    ns: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Refuse a table with holes or out of order.

        Raises:
            DataError: if shapes differ or rows or percentiles do not rise.
        """
        shape = {len(line) for line in self.ns}
        if not self.rows or len(self.ns) != len(self.rows) or shape != {len(self.percentiles)}:
            raise DataError("a latency profile needs one duration per row count and percentile")
        for name, values in (("rows", self.rows), ("percentiles", self.percentiles)):
            if (np.diff(values) <= 0).any():
                raise DataError(f"the {name} of a latency profile must rise: {values}")

    def at(self, rows: int, percentile: float) -> Ns:
        """Return the duration for a number of candidates, interpolated between those measured.

        Outside the measured range the nearest slope goes on for more rows; the smallest entry
        holds for fewer.

        Raises:
            DataError: if the percentile was not measured.
        """
        if percentile not in self.percentiles:
            raise DataError(f"the profile has percentiles {self.percentiles}, not {percentile}")
        column = [line[self.percentiles.index(percentile)] for line in self.ns]
        if rows > self.rows[-1] and len(self.rows) > 1:
            slope = (column[-1] - column[-2]) / (self.rows[-1] - self.rows[-2])
            return Ns(round(column[-1] + max(0.0, slope) * (rows - self.rows[-1])))
        return Ns(round(float(np.interp(rows, self.rows, column))))

    def to_json(self) -> bytes:
        """Return the profile as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes) -> LatencyProfile:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: if it is something else.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise DataError(f"not a latency profile: {error}") from error


def profile_of(
    samples_ns: Mapping[int, NDArray[Any]], percentiles: tuple[float, ...] = STANDARD_PERCENTILES
) -> LatencyProfile:
    """Return the profile of measured durations, given by number of candidates.

    Raises:
        DataError: if there are no samples.
    """
    rows = tuple(sorted(samples_ns))
    return LatencyProfile(
        rows=rows,
        percentiles=percentiles,
        ns=tuple(tuple(np.percentile(samples_ns[r], percentiles).tolist()) for r in rows),
    )
