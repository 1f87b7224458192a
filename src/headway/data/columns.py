"""CSV and Parquet files into typed columns; needs polars, which serving never does."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, MissingDependencyError
from headway.data.encoders import BadValueError, read_tokens
from headway.data.raw import RawTable, objects
from headway.data.settings import ColumnType, TableReader

if TYPE_CHECKING:
    import polars


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


def read_table(path: Path, settings: TableReader) -> RawTable:
    """Return the typed columns of a CSV or Parquet file.

    Raises:
        DataError: if the file or a column is missing or a value cannot be read.
    """
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
            columns[name] = objects([t or None for t in _texts(series, path)])
        else:
            columns[name] = objects(_lists(series, list_separator, path))
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
