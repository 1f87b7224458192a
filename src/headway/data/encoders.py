"""How raw values become ids and numbers: fitted on train, stored, the same at serving."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, repeat
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import DataError

Rows = Annotated[int, Meta(ge=1, le=2**40)]


_NUMERIC = frozenset((int, float, type(None)))


class BadValueError(ValueError):
    """A raw value that cannot be encoded; ``position`` says which, the message why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Refuses unknown keys and cannot be changed."""


class VocabularySettings(_Settings, tag_field="kind", tag="vocabulary", frozen=True, kw_only=True):
    """One row for each token that train holds at least ``min_count`` times.

    Attributes:
        min_count: rarer tokens share row 0 with unknown and missing ones.
        max_size: keep only that many tokens, the most frequent.
    """

    min_count: Annotated[int, Meta(ge=1)] = 1
    max_size: Annotated[int, Meta(ge=1)] | None = None


class BucketSettings(_Settings, tag_field="kind", tag="buckets", frozen=True, kw_only=True):
    """One row for each of ``count`` ranges of a number that are equally frequent on train."""

    count: Annotated[int, Meta(ge=2, le=65_536)] = 10


class Vocabulary(
    _Settings, tag_field="kind", tag="vocabulary", dict=True, frozen=True, kw_only=True
):
    """Token ``tokens[i]`` has id ``i + 1``; unknown and missing ones have id 0."""

    tokens: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows the table needs."""
        return len(self.tokens) + 1

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens, 1)}

    def encode(self, values: Sequence[object]) -> NDArray[np.int64]:
        """Return int64 ids of raw tokens."""
        found = map(self._ids.get, read_tokens(values), repeat(0))
        return np.fromiter(found, np.int64, len(values))


class Hashing(_Settings, tag_field="kind", tag="hashing", frozen=True, kw_only=True):
    """Ids 1 to ``buckets`` from a hash of the token, 0 for a missing one; needs no training.

    The limit keeps buckets far fewer than the 2**32 values of the checksum underneath.
    """

    buckets: Annotated[int, Meta(ge=1, le=2**24)]

    @property
    def rows(self) -> int:
        """How many rows the table needs."""
        return self.buckets + 1

    def encode(self, values: Sequence[object]) -> NDArray[np.int64]:
        """Return int64 ids of raw tokens, the same in every process and on every machine."""
        tokens = read_tokens(values)
        sums = np.fromiter((zlib.crc32(t.encode()) for t in tokens), np.uint64, len(tokens))
        ids = (_mixed(sums) % np.uint64(self.buckets)).astype(np.int64) + 1
        ids[np.fromiter((not t for t in tokens), np.bool_, len(tokens))] = 0
        return ids


class Identity(_Settings, tag_field="kind", tag="identity", frozen=True, kw_only=True):
    """The value is the row number, from 0 to ``rows - 1``; a missing one is an error."""

    rows: Rows

    def encode(self, values: Sequence[object]) -> NDArray[np.int64]:
        """Return the values as int64 after checking their range."""
        out = np.empty(len(values), np.int64)
        for i, token in enumerate(read_tokens(values)):
            # 18 digits fit int64 whatever they are; the range decides afterwards.
            known = token.isascii() and token.isdigit() and len(token) <= 18
            if not known or int(token) >= self.rows:
                given = _shown(values[i])
                raise BadValueError(i, f"{given} is not a row number from 0 to {self.rows - 1}")
            out[i] = int(token)
        return out


class Buckets(_Settings, tag_field="kind", tag="buckets", frozen=True, kw_only=True):
    """Id 1 + the number of ``edges`` that are at most the value; 0 where it is missing."""

    edges: tuple[float, ...]

    @property
    def rows(self) -> int:
        """How many rows the table needs."""
        return len(self.edges) + 2

    def encode(self, values: Sequence[object]) -> NDArray[np.int64]:
        """Return int64 ids of raw numbers."""
        numbers = read_numbers(values)
        ids = np.searchsorted(np.asarray(self.edges), numbers, side="right") + 1
        return np.where(np.isnan(numbers), 0, ids).astype(np.int64)


EncodingSettings = VocabularySettings | Hashing | Identity | BucketSettings
Encoder = Vocabulary | Hashing | Identity | Buckets


class Scaling(_Settings, frozen=True, kw_only=True):
    """One number's way into a dense feature: fill, log(1 + max(x, 0)), shift, divide."""

    fill: float = 0.0
    log: bool = False
    mean: float = 0.0
    std: float = 1.0

    def encode(self, values: Sequence[object]) -> NDArray[np.float32]:
        """Return float32 of raw numbers."""
        scaled = (self.unscaled(values) - self.mean) / self.std
        with np.errstate(over="ignore"):
            out = scaled.astype(np.float32)
        if not np.isfinite(out).all():
            position = int(np.isfinite(out).argmin())
            raise BadValueError(position, f"{_shown(values[position])} is too large for float32")
        return out

    def unscaled(self, values: Sequence[object]) -> NDArray[np.float64]:
        """Return float64 of raw numbers, filled and logged."""
        numbers = read_numbers(values)
        filled = np.where(np.isnan(numbers), self.fill, numbers)
        return np.log1p(np.maximum(filled, 0)) if self.log else filled


def fit_encoder(settings: EncodingSettings, columns: Iterable[Sequence[object]]) -> Encoder:
    """Return the encoder of a table from the train values of all columns that use it.

    Raises:
        BadValueError: for a value of the wrong type.
        DataError: if there is no number to make buckets of.
    """
    if isinstance(settings, VocabularySettings):
        return _fit_vocabulary(settings, columns)
    if isinstance(settings, BucketSettings):
        return _fit_buckets(settings, columns)
    return settings


def fit_scaling(scaling: Scaling, values: Sequence[object], *, standardise: bool) -> Scaling:
    """Return ``scaling`` with the mean and deviation of train values, where that is asked for."""
    if not standardise:
        return scaling
    numbers = scaling.unscaled(values)
    mean, std = float(numbers.mean()), float(numbers.std())
    # A constant column keeps its scale: its deviation is nothing but rounding.
    constant = std <= 1e-9 * abs(mean)
    return msgspec.structs.replace(scaling, mean=mean, std=1.0 if constant else std)


def read_tokens(values: Sequence[object]) -> Sequence[str]:
    """Return raw values as text: text itself, whole numbers in digits, missing as empty.

    Raises:
        BadValueError: for other types and for text that is not valid Unicode.
    """
    tokens: Sequence[str]
    if set(map(type, values)) <= {str, type(None)}:
        tokens = [value or "" for value in values]  # type: ignore[misc]
    else:
        tokens = [_token(i, value) for i, value in enumerate(values)]
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:
        starts = np.cumsum([len(t) for t in tokens])
        position = int(np.searchsorted(starts, error.start, side="right"))
        raise BadValueError(position, "the text is not valid Unicode") from error
    return tokens


def read_numbers(values: Sequence[object]) -> NDArray[np.float64]:
    """Return raw values as float64 with NaN for missing ones.

    Raises:
        BadValueError: for other types, NaN and infinity.
    """
    kinds = set(map(type, values))
    if not kinds <= _NUMERIC:
        position = next(i for i, v in enumerate(values) if type(v) not in _NUMERIC)
        raise BadValueError(position, f"a number is needed, not {_shown(values[position])}")
    gaps = type(None) in kinds
    try:
        numbers = np.array(values, np.float64)  # None becomes NaN
    except OverflowError as error:
        position = next(i for i, v in enumerate(values) if isinstance(v, int) and abs(v) > 2**1000)
        raise BadValueError(position, "the number is too large") from error
    finite = np.isfinite(numbers)
    # Counting the gaps is far cheaper than looking at each, and nearly always all is well.
    if np.count_nonzero(finite) + (values.count(None) if gaps else 0) < len(values):
        position = next(i for i, v in enumerate(values) if v is not None and not finite[i])
        raise BadValueError(position, f"a finite number is needed, not {values[position]}")
    return numbers


def _token(position: int, value: object) -> str:
    if value is None:
        return ""
    if type(value) is str:
        return value
    if type(value) is int and abs(value) < 2**64:
        return str(value)
    # A column of numbers with gaps is read as floats; 24 and 24.0 must be one token.
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    raise BadValueError(position, f"text or a whole number is needed, not {_shown(value)}")


def _shown(value: object) -> str:
    """Return a short form fit for a message, whatever a client sent."""
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**64:
        return "an integer over 64 bits"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fit_vocabulary(
    settings: VocabularySettings, columns: Iterable[Sequence[object]]
) -> Vocabulary:
    counts = Counter(chain.from_iterable(read_tokens(values) for values in columns))
    counts.pop("", None)
    kept = [t for t, count in counts.items() if count >= settings.min_count]
    # Frequent tokens first: their rows then share pages and caches.
    kept.sort(key=lambda token: (-counts[token], token))
    return Vocabulary(tokens=tuple(kept[: settings.max_size]))


def _fit_buckets(settings: BucketSettings, columns: Iterable[Sequence[object]]) -> Buckets:
    numbers = np.concatenate([read_numbers(values) for values in columns])
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        raise DataError("no number is present in train to make buckets of")
    shares = np.linspace(0, 1, settings.count + 1)[1:-1]
    # Real values as edges: a number then falls on the same side wherever it is compared.
    edges = np.quantile(numbers, shares, method="higher")
    return Buckets(edges=tuple(np.unique(edges).tolist()))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64-bit values evenly (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
