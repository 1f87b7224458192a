"""How often rows of production tables are asked for, as published, and ids as skewed as that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError
from headway.workload.files import reading
from headway.workload.ids import scatter

_BUCKET = re.compile(r"^\((\d{1,18})(?:, *(\d{1,18})\]|\+?): *(\d{1,18}(?:\.\d{0,18})?)$")
_TOTAL = re.compile(r"^Avg # of (indices|unique cols): *(\d{1,18})$")
_SECTIONS = {"Histogram of col sizes:": "rows", "Ratio of index distribution": "accesses"}
_OPEN = -1
"""Upper bound of the last bucket."""
_COARSE = 0.01
_SUM_SLACK = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class AccessHistogram:
    """What share of a table's rows is hit how often, and what share of all accesses they get.

    Attributes:
        name: of the table.
        accesses: counted in all.
        rows: that were accessed at all.
        low: int64 ``[buckets]``; rows of a bucket are hit more often than this, rising.
        row_share: float64 ``[buckets]``, sums to 1.
        access_share: float64 ``[buckets]``, sums to 1.
    """

    name: str
    accesses: int
    rows: int
    low: NDArray[np.int64]
    row_share: NDArray[np.float64]
    access_share: NDArray[np.float64]

    def draw(self, count: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw ids with this skew, whatever the size of the table.

        The table stands for the accessed rows: its hottest share of rows gets what the hottest
        share got in production. Within a bucket all rows are alike. Hits of cold rows scatter
        about their mean, so after as many draws somewhat fewer than the counted rows are hit.

        Args:
            count: how many.
            rows: of the table; popular ones are spread over it.
            rng: source of chance.

        Returns:
            int64 ``[count]``, from 0 to rows - 1.
        """
        edges = np.concatenate([[0.0], np.cumsum(self.row_share[::-1])])
        bucket = rng.choice(len(self.low), size=count, p=self.access_share[::-1])
        part = edges[bucket] + rng.random(count) * np.diff(edges)[bucket]
        ranks = np.minimum((part * rows).astype(np.int64), rows - 1)
        return scatter(ranks, rows)


def read_access_histograms(path: Path) -> tuple[AccessHistogram, ...]:
    """Read statistics of embedding tables in the form of ``facebookresearch/dlrm_datasets``.

    Shares of rows are written with three digits there, which leaves nothing of the hottest
    buckets; their rows follow from their accesses, one row being hit 1.5 times its bucket's
    lower bound, and twice that bound in the last, open bucket.

    Args:
        path: a ``locality_stats.txt``: for every table its name, totals, the histogram of rows
            and that of accesses over buckets of how often rows are hit.

    Returns:
        One per table, in the order of the file.

    Raises:
        DataError: naming the file and the line.
    """
    with reading(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    tables = tuple(_finished(path, draft) for draft in _drafts(path, lines))
    if not tables:
        raise DataError(f"{path} holds no locality statistics: no line starts a table")
    return tables


@dataclass(slots=True)
class _Draft:
    """One table while it is read; shares by bounds, bounds in the file's order."""

    name: str
    line: int
    totals: dict[str, int] = field(default_factory=dict)
    rows: dict[tuple[int, int], float] = field(default_factory=dict)
    accesses: dict[tuple[int, int], float] = field(default_factory=dict)


def _drafts(path: Path, lines: list[str]) -> Iterator[_Draft]:
    draft: _Draft | None = None
    section = name = ""
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if line.startswith("Locality stats"):
            if draft is not None:
                yield draft
            draft, section = _Draft(name, number), ""
        elif draft is None or not line.startswith(("(", "Avg #", *_SECTIONS)):
            name = line or name
        elif line.startswith(tuple(_SECTIONS)):
            section = next(s for start, s in _SECTIONS.items() if line.startswith(start))
        else:
            _take(draft, section, line, f"{path} line {number}")
    if draft is not None:
        yield draft


def _take(draft: _Draft, section: str, line: str, place: str) -> None:
    """Enter a line with a number into the draft."""
    if total := _TOTAL.match(line):
        draft.totals[total[1]] = int(total[2])
        return
    bucket = _BUCKET.match(line)
    if bucket is None or not section:
        raise DataError(f"{place}: {line!r} is not a bucket like '(2, 4]: 0.139' of a histogram")
    low, high, share = int(bucket[1]), int(bucket[2] or _OPEN), float(bucket[3])
    shares = draft.rows if section == "rows" else draft.accesses
    before = next(reversed(shares), (0, 0))
    if low != before[1] or (high != _OPEN and high <= low) or share > 1:
        raise DataError(
            f"{place}: {line!r} does not continue the buckets up to {before[1]} with a share of "
            "at most 1"
        )
    shares[low, high] = share


def _finished(path: Path, draft: _Draft) -> AccessHistogram:
    """Check a draft and bring its shares to sums of 1."""
    place = f"{path} line {draft.line}: table {draft.name!r}"
    accesses, rows = (draft.totals.get(key, 0) for key in ("indices", "unique cols"))
    if not (accesses and rows):
        raise DataError(f"{place} does not say how many indices and unique cols it counted")
    if not draft.rows or list(draft.rows) != list(draft.accesses):
        raise DataError(
            f"{place} has {len(draft.rows)} buckets of rows and {len(draft.accesses)} of "
            "accesses; both histograms need the same"
        )
    shares = np.array([list(draft.rows.values()), list(draft.accesses.values())])
    if (np.abs(shares.sum(axis=1) - 1) > _SUM_SLACK).any():
        raise DataError(f"{place} has shares that sum to {shares.sum(axis=1).round(3).tolist()}")
    low = np.array([bound[0] for bound in draft.rows], np.int64)
    hits = np.where([bound[1] == _OPEN for bound in draft.rows], 2.0, 1.5) * np.maximum(low, 2 / 3)
    from_accesses = shares[1] * accesses / hits / rows
    row_share = np.where(shares[0] >= _COARSE, shares[0], from_accesses)
    return AccessHistogram(
        name=draft.name,
        accesses=accesses,
        rows=rows,
        low=low,
        row_share=row_share / row_share.sum(),
        access_share=shares[1] / shares[1].sum(),
    )
