"""Files that workloads are drawn from: traces of moments, counts per minute, size histograms."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError
from headway.workload.arrivals import LONGEST_S

MOST_ROWS = 20_000_000
LARGEST_SIZE = 1_000_000
_LEAST_SPAN_S = 1e-6
_DAY_S = 86_400
_MOST_COUNTED = 1e15
# What nanoseconds in 64 bits can tell.
_FIRST_DAY, _LAST_DAY = np.datetime64("1678-01-01"), np.datetime64("2261-12-31")
_MINUTE = re.compile(r"^(?:minute_)?(\d+)$")
_MOMENTS = {"timestamp", "seconds"}
_COUNTS = {"count", "counts"}


class _FarDateError(ValueError):
    """A date beyond what nanoseconds can tell, or too far from the first."""


Row = tuple[int, list[str]]
"""The number of a line and its cells."""


def _kept(read: Callable[[Path], NDArray[np.float64]]) -> Callable[[Path], NDArray[np.float64]]:
    """Let a file be read once as long as it stays the same; searches draw from it many times."""

    @lru_cache(maxsize=2)
    def known(path: Path, *_: int) -> NDArray[np.float64]:
        found = read(path)
        found.flags.writeable = False
        return found

    @wraps(read)
    def reader(path: Path) -> NDArray[np.float64]:
        try:
            state = path.stat()
        except OSError:
            return read(path)
        return known(path, state.st_size, state.st_mtime_ns)

    return reader


@_kept
def read_moments(path: Path) -> NDArray[np.float64]:
    """Read when things happened, from a csv or csv.gz.

    Args:
        path: has a column TIMESTAMP (dates with up to nanoseconds, or seconds), or seconds in
            its first column and no header. Order does not matter.

    Returns:
        float64 ``[events]``, seconds from the first, in order; two at least, not all alike. Not
        to be written to, as what ``read_counts`` returns: a file that stays is read once.

    Raises:
        DataError: naming the file and the line.
    """
    rows = _rows(path)
    place, data = _column(path, rows, _MOMENTS)
    lines, cells = [line for line, _ in data], [_cell(path, row, place) for row in data]
    moments = _as_seconds(path, lines, cells)
    moments.sort()
    if len(moments) < 2 or moments[0] == moments[-1]:
        raise DataError(f"{path} has {len(moments)} moments; a trace needs two that differ")
    span_s = float(moments[-1]) - float(moments[0])
    if not _LEAST_SPAN_S <= span_s <= LONGEST_S:
        raise DataError(
            f"{path} spans {span_s:.3g} s; a trace spans {_LEAST_SPAN_S:g} to {LONGEST_S:g} s"
        )
    moments -= moments[0]
    return moments


@_kept
def read_counts(path: Path) -> NDArray[np.float64]:
    """Read how many queries came in each minute, from a csv or csv.gz.

    Args:
        path: has columns ``minute_1``, ``minute_2``, ... (or ``1``, ``2``, ... beside others),
            summed over rows as in the Azure Functions traces; or a column ``count`` or only one
            column, a minute per line.

    Returns:
        float64 ``[minutes]``, of which at least one is positive.

    Raises:
        DataError: naming the file and the line.
    """
    rows = _rows(path)
    head = rows[0][1]
    minutes = {int(m[1]): i for i, cell in enumerate(head) if (m := _MINUTE.match(cell.lower()))}
    if minutes and len(head) > 1:
        places = [minutes[number] for number in sorted(minutes)]
        counts = np.zeros(len(places))
        for row in rows[1:]:
            counts += _numbers(path, row, places)
    else:
        place, data = _column(path, rows, _COUNTS)
        counts = np.array([_number(path, row[0], _cell(path, row, place)) for row in data])
    total = float(counts.sum())
    if not total > 0:
        raise DataError(f"{path} counts no query in any of its {len(counts)} minutes")
    _check_total(path, total)
    return counts


def read_sizes(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a histogram of query sizes, from a csv or csv.gz of ``size,count``.

    Returns:
        int64 ``[sizes]``, rising, and float64 ``[sizes]``, their shares, which sum to 1.

    Raises:
        DataError: naming the file and the line.
    """
    rows = _rows(path)
    data = rows[1:] if [c.lower() for c in rows[0][1]] == ["size", "count"] else rows
    counts: dict[int, float] = {}
    for line, cells in data:
        if len(cells) != 2:
            raise DataError(f"{path} line {line} has {len(cells)} cells; write size,count")
        size = _number(path, line, cells[0])
        if size != int(size) or not 1 <= size <= LARGEST_SIZE:
            raise DataError(
                f"{path} line {line}: a size is a whole number from 1 to {LARGEST_SIZE:,}, "
                f"not {cells[0]!r}"
            )
        counts[int(size)] = counts.get(int(size), 0.0) + _number(path, line, cells[1])
    total = sum(counts.values())
    if not total > 0:
        raise DataError(f"{path} counts no query of any size")
    _check_total(path, total)
    sizes = sorted(counts)
    return np.array(sizes, np.int64), np.array([counts[size] for size in sizes]) / total


def _check_total(path: Path, total: float) -> None:
    """Refuse counts so small that shares and rates of them mean nothing."""
    if total < 1 / _MOST_COUNTED:
        raise DataError(
            f"{path} counts {total:.3g} queries in all; give at least {1 / _MOST_COUNTED:g}"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it was that could not be read.

    Raises:
        DataError: in the place of what decoders and the system raise.
    """
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _rows(path: Path) -> list[Row]:
    """Return what is not blank; at least one row."""
    opened = gzip.open if path.suffix == ".gz" else open
    with reading(path), opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        cells = ((lines.line_num, [cell.strip() for cell in row]) for row in lines if any(row))
        rows = list(islice(cells, MOST_ROWS + 1))
    if not rows:
        raise DataError(f"{path} is empty")
    if len(rows) > MOST_ROWS:
        raise DataError(f"{path} has more than {MOST_ROWS:,} rows; cut it into parts")
    return rows


def _column(path: Path, rows: list[Row], names: set[str]) -> tuple[int, list[Row]]:
    """Return the place of the column that has one of the names, and the rows below."""
    head = [cell.lower() for cell in rows[0][1]]
    for place, cell in enumerate(head):
        if cell in names:
            return place, rows[1:]
    if len(head) > 1 or not head[0] or head[0][0].isalpha():
        raise DataError(
            f"{path} line {rows[0][0]}: no column is named {' or '.join(sorted(names))}, and it "
            f"is not a single column of numbers; its columns are {rows[0][1][:6]}"
        )
    return 0, rows


def _cell(path: Path, row: Row, place: int) -> str:
    line, cells = row
    if place >= len(cells):
        raise DataError(f"{path} line {line} has {len(cells)} cells, column {place + 1} is missing")
    return cells[place]


def _numbers(path: Path, row: Row, places: list[int]) -> NDArray[np.float64]:
    """Return the cells at the places as counts: all at once, or one by one to name a bad one."""
    cells = [_cell(path, row, place) for place in places]
    try:
        numbers = np.array(list(map(float, cells)))
        if ((numbers >= 0) & (numbers <= _MOST_COUNTED)).all():
            return numbers
    except ValueError:
        pass
    return np.array([_number(path, row[0], cell) for cell in cells])


def _number(path: Path, line: int, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= _MOST_COUNTED:
        raise DataError(f"{path} line {line}: {cell!r} is not a count")
    return number


def _as_seconds(path: Path, lines: list[int], cells: list[str]) -> NDArray[np.float64]:
    """Read seconds, or dates if the first cell is no number."""
    try:
        return _parsed(cells)
    except ValueError as error:
        for line, cell in zip(lines, cells, strict=True):
            try:
                _parsed([cells[0], cell])
            except _FarDateError as far:
                raise DataError(f"{path} line {line}: {cell!r} is {far}") from error
            except ValueError:
                raise DataError(
                    f"{path} line {line}: {cell!r} is neither a date with time nor seconds like "
                    "the first"
                ) from error
        raise DataError(f"{path}: {error}") from error


def _parsed(cells: list[str]) -> NDArray[np.float64]:
    """Return seconds.

    Raises:
        ValueError: if a cell is not of the first's kind.
    """
    try:
        float(cells[0])
    except ValueError:
        plain = [cell.removesuffix("Z").removesuffix("+00:00") for cell in cells]
        written = np.array(plain)
        days = written.astype("datetime64[D]")
        if np.isnat(days).any():
            raise ValueError("a date is missing") from None
        if (days < _FIRST_DAY).any() or (days > _LAST_DAY).any():
            raise _FarDateError(f"no date from {_FIRST_DAY} to {_LAST_DAY}") from None
        if (days.max() - days.min()).astype(int) * _DAY_S > LONGEST_S:
            raise _FarDateError(f"more than {LONGEST_S:g} s from the first date") from None
        dates = written.astype("datetime64[ns]")
        # Differences first: a double does not hold nanoseconds since 1970.
        return np.asarray((dates - dates.min()).astype(np.int64) / 1e9)
    except IndexError:
        return np.empty(0)
    seconds = np.array(cells, np.float64)
    if not np.isfinite(seconds).all():
        raise ValueError("a number is not finite")
    return seconds
