"""MovieLens-100K in either of its two forms."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from headway.core import DataError
from headway.data.columns import read_delimited
from headway.data.raw import RawTable, objects
from headway.data.settings import ColumnType

_GENRE_NAMES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
GENRES = _GENRE_NAMES.split("|")
_ATOMIC_TYPES: dict[str, ColumnType] = {"token": "text", "token_seq": "list", "float": "number"}
_MOVIELENS_NAMES = {"movie_title": "title", "release_year": "year", "class": "genres"}
_MOVIELENS_NUMBERS = {"rating", "timestamp", "age"}


def read_movielens(path: Path) -> RawTable:
    """Return ratings with what is known of their users and items.

    Raises:
        DataError: if the folder holds neither form, or a file cannot be read.
    """
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
            "title": objects([tuple(title.split()) for title in titles]),
            "year": objects(years),
            "genres": objects(genres),
        }
    )
