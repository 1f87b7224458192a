"""Files into one raw table; needs polars, which serving never does."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, MissingDependencyError
from headway.data.encoders import BadValueError, read_tokens
from headway.data.settings import (
    ColumnType,
    CriteoReader,
    FrappeReader,
    MovieLensReader,
    ReaderSettings,
    TableReader,
)

if TYPE_CHECKING:
    import polars

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
_GENRE_NAMES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
GENRES = _GENRE_NAMES.split("|")
_ATOMIC_TYPES: dict[str, ColumnType] = {"token": "text", "token_seq": "list", "float": "number"}
_MOVIELENS_NAMES = {"movie_title": "title", "release_year": "year", "class": "genres"}
_MOVIELENS_NUMBERS = {"rating", "timestamp", "age"}


@dataclass(frozen=True, slots=True, eq=False)
class RawTable:
    """Rows as they stand in the files, in their order.

    Attributes:
        columns: name to float64 with NaN for a missing number, or to an object array of text
            (None where missing) or of tuples of text.
    """

    columns: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        """Refuse a table that is empty or uneven.

        Raises:
            DataError: if there is no row or columns differ in length.
        """
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) > 1:
            raise DataError(f"columns of one table have different lengths: {sorted(lengths)}")
        if not sum(lengths):
            raise DataError("the data has no rows")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> NDArray[Any]:
        """Return a column.

        Raises:
            DataError: if there is none of that name.
        """
        if name not in self.columns:
            raise DataError(f"there is no column {name!r}; there are {list(self.columns)}")
        return self.columns[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers.

        Raises:
            DataError: if there is none of that name, or it holds text.
        """
        column = self.column(name)
        if column.dtype != np.float64:
            raise DataError(f"column {name!r} holds text where numbers are needed")
        return column

    def values(self, name: str, rows: NDArray[np.int64] | None = None) -> list[Any]:
        """Return a column, or some rows of it, as Python values with None for missing ones."""
        column = self.column(name)
        chosen: list[Any] = (column if rows is None else column[rows]).tolist()
        if column.dtype == np.float64:
            return [None if math.isnan(value) else value for value in chosen]
        return chosen

    def joined(self, other: RawTable, on: str) -> RawTable:
        """Return this table with the columns of ``other``, missing where its key is unknown.

        Raises:
            DataError: if a key stands twice in ``other``.
        """
        keys = other.values(on)
        place = {key: i for i, key in enumerate(keys)}
        if len(place) != len(keys):
            raise DataError(f"column {on!r} holds a value twice where each must be unique")
        rows = np.array([place.get(key, -1) for key in self.values(on)], np.int64)
        columns = dict(self.columns)
        for name, column in other.columns.items():
            if name not in columns:
                columns[name] = column[rows]
                columns[name][rows < 0] = np.nan if column.dtype == np.float64 else None
        return RawTable(columns)


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
        return _read_movielens(path)
    if isinstance(settings, CriteoReader):
        return read_delimited(path, CRITEO_COLUMNS, separator="\t", header=False)
    if isinstance(settings, FrappeReader):
        return read_delimited(path, FRAPPE_COLUMNS)
    return _read_table(path, settings)


def read_delimited(
    path: Path,
    types: Mapping[str, ColumnType],
    *,
    separator: str = ",",
    header: bool = True,
    list_separator: str = " ",
    encoding: str = "utf-8",
) -> RawTable:
    """Return the typed columns of a file of separated fields, plain or gz.

    Without a header ``types`` stands in the order of the file and may leave out its end.
    Quotes mean nothing where the separator is not a comma.
    """
    pl = _polars()
    source: Path | BytesIO = _existing(path)
    if encoding != "utf-8":
        source = BytesIO(path.read_bytes().decode(encoding).encode())
    try:
        frame = pl.read_csv(
            source,
            separator=separator,
            has_header=header,
            infer_schema=False,
            quote_char='"' if separator == "," else None,
        )
    except (pl.exceptions.PolarsError, OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    _check_complete(frame, path, separator)
    if not header:
        if frame.width < len(types):
            raise DataError(f"{path} has {frame.width} columns where {len(types)} are needed")
        # Only the named ones: a column left out may bear a name that is given here.
        frame = frame[:, : len(types)]
        frame.columns = list(types)
    return _typed(frame, types, path, list_separator, first_line=2 if header else 1)


def _check_complete(frame: polars.DataFrame, path: Path, separator: str) -> None:
    """Refuse a line that ends early; its last fields would pass for missing values."""
    # Polars tells no absent field from an empty one, so doubtful files are read once more.
    if frame.width < 2 or not frame.to_series(frame.width - 1).null_count():
        return
    mark, wanted = separator.encode(), frame.width - 1
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            # A quoted field may hold separators and line ends: such lines are not counted.
            quoted = separator == "," and b'"' in line
            if line.count(mark) < wanted and line.strip() and not quoted:
                raise DataError(
                    f"{path}, line {number} has fewer than {frame.width} fields; write empty "
                    "fields for what is unknown, or check the separator"
                )


def _read_table(path: Path, settings: TableReader) -> RawTable:
    if path.suffix != ".parquet":
        return read_delimited(
            path,
            settings.columns,
            separator=settings.separator,
            header=settings.header,
            list_separator=settings.list_separator,
        )
    pl = _polars()
    try:
        frame = pl.read_parquet(_existing(path))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return _typed(frame, settings.columns, path, settings.list_separator, first_line=1)


def _typed(
    frame: polars.DataFrame,
    types: Mapping[str, ColumnType],
    path: Path,
    list_separator: str,
    first_line: int,
) -> RawTable:
    missing = [name for name in types if name not in frame.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; it has {frame.columns}")
    if not frame.height:
        raise DataError(f"{path} has no rows")
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in types.items():
        series = frame[name]
        if kind == "number":
            columns[name] = _numbers(series, path, first_line)
        elif kind == "text":
            columns[name] = _objects([t or None for t in _texts(series, path)])
        else:
            columns[name] = _objects(_lists(series, list_separator, path))
    return RawTable(columns)


def _numbers(series: polars.Series, path: Path, first_line: int) -> NDArray[np.float64]:
    pl = _polars()
    if series.dtype.is_nested():
        raise DataError(f"{path}, column {series.name!r} has no numbers but {series.dtype}")
    if series.dtype == pl.String:
        series = series.replace("", None)
    try:
        numbers = series.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}, column {series.name!r} has no numbers: {error}") from error
    bad = series.is_not_null() & ~numbers.is_finite().fill_null(value=False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"{path}, line {row + first_line}, column {series.name!r}: "
            f"{str(series[row])[:60]!r} is not a finite number"
        )
    out: NDArray[np.float64] = numbers.fill_null(float("nan")).to_numpy()
    return out


def _texts(series: polars.Series, path: Path) -> list[str | None]:
    """Return text, and numbers as the token that serving makes of them: 24.0 becomes "24"."""
    pl = _polars()
    if series.dtype.is_float() or series.dtype.is_integer():
        # A whole number has one spelling; what has none may not become a token at all.
        values = [None if v is None or v != v else v for v in series.to_list()]  # noqa: PLR0124
        try:
            return list(read_tokens(values))
        except BadValueError as error:
            raise DataError(
                f"{path}, row {error.position}, column {series.name!r}: {error}; read the column "
                "as number"
            ) from error
    known = isinstance(series.dtype, pl.String | pl.Categorical | pl.Enum | pl.Null)
    if not known and not series.dtype.is_temporal():
        raise DataError(
            f"{path}, column {series.name!r} has the type {series.dtype}, which is neither text "
            "nor whole numbers; convert it in the file"
        )
    texts: list[str | None] = series.cast(pl.String).to_list()
    return texts


def _lists(series: polars.Series, separator: str, path: Path) -> list[tuple[str | None, ...]]:
    pl = _polars()
    if isinstance(series.dtype, pl.List | pl.Array):
        lengths = [0 if row is None else len(row) for row in series.to_list()]
        # An empty list explodes into one missing value, so only the others take part.
        inner = series.filter(pl.Series(lengths, dtype=pl.Int64) > 0).explode()
        tokens = iter([text or None for text in _texts(inner, path)])
        return [tuple(islice(tokens, length)) for length in lengths]
    return [tuple(t for t in (text or "").split(separator) if t) for text in _texts(series, path)]


def _objects(values: list[Any]) -> NDArray[Any]:
    return np.fromiter(values, object, len(values))


def _read_movielens(path: Path) -> RawTable:
    if not path.is_dir():
        raise DataError(
            f"{path} is not a folder; name the one with the MovieLens files in the config or by --data"
        )
    if (path / "u.data").is_file():
        parts = _original_files(path)
    else:
        parts = [_read_atomic(path, suffix) for suffix in ("inter", "user", "item")]
    ratings, users, items = parts
    return ratings.joined(users, "user_id").joined(items, "item_id")


def _read_atomic(folder: Path, suffix: str) -> RawTable:
    found = sorted(folder.glob(f"*.{suffix}"))
    if len(found) != 1:
        raise DataError(f"{folder} holds {len(found)} .{suffix} files where one is needed")
    path = found[0]
    try:
        with path.open(encoding="utf-8") as lines:
            heading = lines.readline().rstrip("\r\n").split("\t")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the heading of {path} as UTF-8: {error}") from error
    types: dict[str, ColumnType] = {}
    names: dict[str, str] = {}
    for field in heading:
        name, _, kind = field.partition(":")
        if kind not in _ATOMIC_TYPES:
            raise DataError(f"{path}: the heading {field!r} is not of the form name:type")
        names[field] = _MOVIELENS_NAMES.get(name, name)
        types[field] = "number" if names[field] in _MOVIELENS_NUMBERS else _ATOMIC_TYPES[kind]
    table = read_delimited(path, types, separator="\t")
    return RawTable({names[field]: column for field, column in table.columns.items()})


def _original_files(folder: Path) -> list[RawTable]:
    ratings: dict[str, ColumnType] = {
        "user_id": "text",
        "item_id": "text",
        "rating": "number",
        "timestamp": "number",
    }
    users: dict[str, ColumnType] = {
        "user_id": "text",
        "age": "number",
        "gender": "text",
        "occupation": "text",
        "zip_code": "text",
    }
    return [
        read_delimited(folder / "u.data", ratings, separator="\t", header=False),
        read_delimited(folder / "u.user", users, separator="|", header=False, encoding="latin-1"),
        _original_items(folder / "u.item"),
    ]


def _original_items(path: Path) -> RawTable:
    flags = [f"genre {name}" for name in GENRES]
    types: dict[str, ColumnType] = {
        **dict.fromkeys(("item_id", "title", "released", "video", "url"), "text"),
        **dict.fromkeys(flags, "number"),
    }
    table = read_delimited(path, types, separator="|", header=False, encoding="latin-1")
    marks = np.stack([table.column(flag) for flag in flags], axis=1) == 1
    genres = [tuple(g for g, on in zip(GENRES, row, strict=True) if on) for row in marks]
    titles = [re.sub(r" \(\d{4}\)$", "", title or "") for title in table.values("title")]
    years = [date[-4:] if date else None for date in table.values("released")]
    return RawTable(
        {
            "item_id": table.column("item_id"),
            "title": _objects([tuple(title.split()) for title in titles]),
            "year": _objects(years),
            "genres": _objects(genres),
        }
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path in the config or of --data")
    return path


def _polars() -> Any:
    try:
        import polars  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError("polars", "optimize", "reading data files") from error
    return polars
