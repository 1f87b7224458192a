"""What a model eats: features with their scope, embedding tables, tasks."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated, get_type_hints

import msgspec
from msgspec import Meta

from headway.core.errors import UsageError

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]
Count = Annotated[int, Meta(ge=1, le=2**40)]


class Scope(StrEnum):
    """Whether a feature has one row per query or one row per candidate."""

    QUERY = "query"
    CANDIDATE = "candidate"


class Pooling(StrEnum):
    """How the embeddings of a bag become one vector; an empty bag gives zeros."""

    SUM = "sum"
    MEAN = "mean"


class Link(StrEnum):
    """How a model's raw output becomes the score that a client sees."""

    SIGMOID = "sigmoid"
    IDENTITY = "identity"


class Dense(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dense"):
    """``width`` float32 values a row; as a column ``[rows, width]``."""

    name: Name
    scope: Scope
    width: Count = 1


class Sparse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sparse"):
    """One id a row into ``table``; as a column int64 ``[rows]``."""

    name: Name
    table: Name
    scope: Scope


class Bag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bag"):
    """A set of ids a row, pooled into one vector; as a column ``Ragged``."""

    name: Name
    table: Name
    scope: Scope
    max_length: Count
    pooling: Pooling = Pooling.SUM


class Sequence(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sequence"
):
    """An ordered list of ids a row, oldest first, not pooled; as a column ``Ragged``."""

    name: Name
    table: Name
    scope: Scope
    max_length: Count


Feature = Dense | Sparse | Bag | Sequence
IdFeature = Sparse | Bag | Sequence


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An embedding table of ``rows`` vectors of ``dim`` values; features may share it."""

    name: Name
    rows: Count
    dim: Count


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One output of the model; ``link`` turns its raw value into the score."""

    name: Name = "click"
    link: Link = Link.SIGMOID


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ordered features of a model, its tables and its tasks; checked on construction."""

    features: tuple[Feature, ...]
    tables: tuple[Table, ...]
    tasks: tuple[Task, ...] = (Task(),)

    def __post_init__(self) -> None:
        """Refuse a schema that contradicts itself.

        Raises:
            UsageError: for an empty list, a name or size that no bundle can hold, a duplicate
                name or an unknown table.
        """
        if not self.features or not self.tasks:
            raise UsageError("a schema needs at least one feature and one task")
        for kind, names in (
            ("feature", [f.name for f in self.features]),
            ("table", [t.name for t in self.tables]),
            ("task", [t.name for t in self.tasks]),
        ):
            for name in names:
                _check_name(kind, name)
            _refuse_duplicates(kind, names)
        for thing in (*self.features, *self.tables):
            _check_sizes(thing)
        known = {t.name for t in self.tables}
        for feature in self.id_features():
            if feature.table not in known:
                raise UsageError(
                    f"feature {feature.name!r} uses the table {feature.table!r}, "
                    f"which is not among the tables {sorted(known)}"
                )

    def id_features(self, scope: Scope | None = None) -> tuple[IdFeature, ...]:
        """Return the features that look rows up, in order; of one scope if given."""
        return tuple(f for f in self.of_scope(scope) if not isinstance(f, Dense))

    def dense_features(self, scope: Scope | None = None) -> tuple[Dense, ...]:
        """Return the dense features in order; of one scope if given."""
        return tuple(f for f in self.of_scope(scope) if isinstance(f, Dense))

    def of_scope(self, scope: Scope | None) -> tuple[Feature, ...]:
        """Return the features of a scope in order, or all of them."""
        return tuple(f for f in self.features if scope is None or f.scope == scope)

    def table(self, name: str) -> Table:
        """Return the table of that name.

        Raises:
            UsageError: if there is none.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise UsageError(f"no table {name!r}; there are {sorted(t.name for t in self.tables)}")

    def feature(self, name: str) -> Feature:
        """Return the feature of that name.

        Raises:
            UsageError: if there is none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise UsageError(f"no feature {name!r}; there are {sorted(f.name for f in self.features)}")


def _check_name(kind: str, name: str) -> None:
    """Refuse what decoding would refuse, because msgspec checks no struct built in Python."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the {kind} name {ascii(name)[:160]} must be letters, digits and underscores, at most "
            "128 of them, and start with no digit"
        ) from error


def _check_sizes(thing: Feature | Table) -> None:
    for field in ("rows", "dim", "width", "max_length"):
        size = getattr(thing, field, 1)
        try:
            msgspec.convert(size, Count)
        except msgspec.ValidationError as error:
            kind = "table" if isinstance(thing, Table) else "feature"
            raise UsageError(
                f"{kind} {thing.name!r} has {field}={size!r}; it must be a whole number from 1 "
                "to 2**40"
            ) from error


def check_fields(settings: msgspec.Struct) -> None:
    """Hold a struct built in Python to its annotations, as decoding would.

    Raises:
        UsageError: naming the first field that does not fit, and its value.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        try:
            msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise UsageError(f"{type(settings).__name__}: {name}={value!r}: {error}") from error


def _refuse_duplicates(kind: str, names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UsageError(f"{kind} names must be unique, these are not: {twice}")
