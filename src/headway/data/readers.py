"""What a config's reader names into one raw table."""

from __future__ import annotations

from pathlib import Path

from headway.data.columns import read_delimited, read_table
from headway.data.movielens import read_movielens
from headway.data.raw import RawTable
from headway.data.settings import (
    ColumnType,
    CriteoReader,
    FrappeReader,
    MovieLensReader,
    ReaderSettings,
)

CRITEO_COLUMNS: dict[str, ColumnType] = {
    "label": "number",
    **{f"I{i}": "number" for i in range(1, 14)},
    **{f"C{i}": "text" for i in range(1, 27)},
}
FRAPPE_COLUMNS: dict[str, ColumnType] = {
    "label": "number",
    **dict.fromkeys(("split", "user", "item", "daytime", "weekday", "isweekend"), "text"),
    **dict.fromkeys(("homework", "cost", "weather", "country", "city"), "text"),
}


def read_raw(settings: ReaderSettings, base: Path = Path()) -> RawTable:
    """Return the raw rows that a reader's settings describe.

    Args:
        settings: what to read; a relative path starts at ``base``.
        base: usually the folder of the config file.

    Raises:
        DataError: if a file or column is missing, a number cannot be read (the message names
            line and column), or there is no row.
        MissingDependencyError: without polars.
    """
    path = base / settings.path
    if isinstance(settings, MovieLensReader):
        return read_movielens(path)
    if isinstance(settings, CriteoReader):
        return read_delimited(path, CRITEO_COLUMNS, separator="\t", header=False)
    if isinstance(settings, FrappeReader):
        return read_delimited(path, FRAPPE_COLUMNS)
    return read_table(path, settings)
