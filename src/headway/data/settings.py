"""What a config's ``data:`` section may say: where rows come from, what is learnt from them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.core import Name, Pooling, Scope, UsageError
from headway.data.encoders import EncodingSettings, VocabularySettings

Fraction = Annotated[float, Meta(gt=0, lt=1)]
Length = Annotated[int, Meta(ge=1, le=2**16)]
ColumnType = Literal["text", "number", "list"]


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Refuses unknown keys and cannot be changed."""


class CriteoReader(_Settings, tag_field="kind", tag="criteo", frozen=True, kw_only=True):
    """Tab-separated click logs without header: label, I1 to I13, C1 to C26; plain or gz."""

    path: str


class MovieLensReader(_Settings, tag_field="kind", tag="movielens", frozen=True, kw_only=True):
    """A folder with u.data, u.item, u.user, or with one .inter, .item and .user file."""

    path: str


class FrappeReader(_Settings, tag_field="kind", tag="frappe", frozen=True, kw_only=True):
    """App usage in context as CSV with a header and a ``split`` column; plain or gz."""

    path: str


class TableReader(_Settings, tag_field="kind", tag="table", frozen=True, kw_only=True):
    """Any CSV (plain or gz) or Parquet file, described column by column.

    Attributes:
        path: the file; ``.parquet`` is read as Parquet, everything else as CSV.
        columns: name to type, for a file without header in the order of the file.
        separator: between the fields of a line.
        header: whether the first line names the columns.
        list_separator: between the tokens of a ``list`` column.
    """

    path: str
    columns: dict[str, ColumnType]
    separator: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    header: bool = True
    list_separator: Annotated[str, Meta(min_length=1)] = " "

    def __post_init__(self) -> None:
        """Refuse a separator that cannot separate.

        Raises:
            UsageError: if it is not one byte, or a line end or a quote.
        """
        if len(self.separator.encode()) != 1 or self.separator in '\r\n"':
            raise UsageError(
                f"the separator {self.separator!r} must be one character of ASCII, no line end "
                "and no quote"
            )


ReaderSettings = CriteoReader | MovieLensReader | FrappeReader | TableReader


class OrderSplit(_Settings, tag_field="by", tag="order", frozen=True, kw_only=True):
    """The file's order is the order of time: train, valid, choose, test stand in a row.

    With ``query_by`` the rows of one query stay together.

    Attributes:
        test: share of all rows that judge.
        valid: share of all rows that stop training early, taken from the training side.
        choose: share of all rows that choose compositions, taken from the training side.
    """

    test: Fraction
    valid: Fraction = 0.05
    choose: Fraction = 0.05

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to train on.

        Raises:
            UsageError: if the three reach 1.
        """
        total = self.test + self.valid + self.choose
        if total >= 1:
            raise UsageError(f"test, valid and choose take {total:g} of the rows, train needs some")


class TimeSplit(OrderSplit, tag_field="by", tag="time", frozen=True, kw_only=True):
    """As by order, over the numeric column that holds the time; equal times stay together."""

    column: str


class UserSplit(OrderSplit, tag_field="by", tag="user", frozen=True, kw_only=True):
    """As by time, within each user: the last share of everybody's rows judges.

    A user's rows of one time stay together, in the later of the parts they reach.
    """

    user: str
    time: str


class ColumnSplit(_Settings, tag_field="by", tag="column", frozen=True, kw_only=True):
    """The file says itself which rows are for what.

    Attributes:
        column: holds one of the next three values; other rows are left out.
        choose: share of the valid rows that choose compositions instead, evenly spread.
    """

    column: str
    train: str = "train"
    valid: str = "valid"
    test: str = "test"
    choose: Fraction = 0.5

    def __post_init__(self) -> None:
        """Refuse one value for two parts: rows that judge would then have chosen.

        Raises:
            UsageError: naming the value.
        """
        if len({self.train, self.valid, self.test}) < 3:
            raise UsageError(
                f"train {self.train!r}, valid {self.valid!r} and test {self.test!r} must be "
                f"three different values of the column {self.column!r}; no row may be in two parts"
            )


SplitSettings = OrderSplit | TimeSplit | UserSplit | ColumnSplit


class LabelSettings(_Settings, frozen=True, kw_only=True):
    """1 where ``column`` reaches ``at_least``; without it the column must hold 0 and 1."""

    column: str
    at_least: float | None = None
    task: Name = "click"


class Condition(_Settings, frozen=True, kw_only=True):
    """True where ``column`` reaches ``at_least``."""

    column: str
    at_least: float


class HistorySettings(_Settings, frozen=True, kw_only=True):
    """A user's earlier values of the column ``of``, before the time of each row.

    Attributes:
        of: the column whose values make up the history, usually the item.
        user: the column that tells users apart.
        time: numeric column; only strictly smaller values count as earlier.
        where: keeps only earlier rows for which this holds.
    """

    of: str
    user: str
    time: str
    where: Condition | None = None


class DenseSettings(_Settings, tag_field="kind", tag="dense", frozen=True, kw_only=True):
    """Numbers side by side; ``columns`` is the name itself where it is not given.

    Attributes:
        name: of the feature.
        scope: query or candidate.
        columns: numeric columns.
        log: take log(1 + x), negative numbers counting as 0.
        standardise: bring mean to 0 and standard deviation to 1, as measured on train.
        fill: stands in for a missing number, before the above.
    """

    name: Name
    scope: Scope
    columns: tuple[str, ...] = ()
    log: bool = False
    standardise: bool = False
    fill: float = 0.0


class SparseSettings(_Settings, tag_field="kind", tag="sparse", frozen=True, kw_only=True):
    """One id a row; with lists of names and columns, one feature for each pair.

    ``column`` and ``table`` are the name itself where they are not given.
    """

    name: Name | tuple[Name, ...]
    scope: Scope
    column: str | tuple[str, ...] | None = None
    table: Name | None = None


class BagSettings(_Settings, tag_field="kind", tag="bag", frozen=True, kw_only=True):
    """A pooled set of ids from a column of lists, or from the user's history."""

    name: Name
    scope: Scope
    max_length: Length
    pooling: Pooling = Pooling.SUM
    column: str | None = None
    table: Name | None = None
    history: HistorySettings | None = None


class SequenceSettings(_Settings, tag_field="kind", tag="sequence", frozen=True, kw_only=True):
    """Ids in order, oldest first, from a column of lists, or from the user's history."""

    name: Name
    scope: Scope
    max_length: Length
    column: str | None = None
    table: Name | None = None
    history: HistorySettings | None = None


RaggedSettings = BagSettings | SequenceSettings
FeatureSettings = DenseSettings | SparseSettings | BagSettings | SequenceSettings


class TableSettings(_Settings, frozen=True, kw_only=True):
    """An embedding table's width, and how raw values become its row numbers."""

    dim: Annotated[int, Meta(ge=1, le=4096)]
    ids: EncodingSettings = VocabularySettings()


class DataSettings(_Settings, frozen=True, kw_only=True):
    """Everything from a path to four encoded data sets.

    Attributes:
        reader: what the files are and where; a relative path starts at the config file.
        label: which rows count as 1.
        split: which rows train, stop training, choose and judge.
        features: in the order the model gets them.
        tables: by name; a table not named here is a ``default_table``.
        default_table: for all other tables that features name.
        query_by: columns that agree among the impressions of one query; without any, every
            row is a query of its own.
    """

    reader: ReaderSettings
    label: LabelSettings
    split: SplitSettings
    features: tuple[FeatureSettings, ...]
    tables: dict[Name, TableSettings] = {}
    default_table: TableSettings = TableSettings(dim=16)
    query_by: tuple[str, ...] = ()

    def expanded(self) -> tuple[FeatureSettings, ...]:
        """Return the features with lists of names unfolded and columns and tables filled in."""
        return tuple(one for feature in self.features for one in _expand(feature))

    def table(self, name: str) -> TableSettings:
        """Return the settings of a table, the default's where it has none of its own."""
        return self.tables.get(name, self.default_table)

    def __post_init__(self) -> None:
        """Refuse settings that contradict themselves.

        Raises:
            UsageError: for a table nobody uses, a history that cannot share its table, or two
                query-level fields of one name.
        """
        features = self.expanded()
        used = {f.table for f in features if not isinstance(f, DenseSettings)}
        idle = sorted(set(self.tables) - used)
        if idle:
            raise UsageError(
                f"no feature uses the table {idle[0]!r}; features use {sorted(map(str, used))}"
            )
        for feature in features:
            if isinstance(feature, BagSettings | SequenceSettings) and feature.history:
                _check_history(feature, feature.history, features)


def _expand(feature: FeatureSettings) -> tuple[FeatureSettings, ...]:
    replace = msgspec.structs.replace
    if isinstance(feature, DenseSettings):
        return (replace(feature, columns=feature.columns or (feature.name,)),)
    if isinstance(feature, BagSettings | SequenceSettings):
        column = feature.column or feature.name
        return (replace(feature, column=column, table=feature.table or feature.name),)
    names = (feature.name,) if isinstance(feature.name, str) else feature.name
    columns = feature.column or names
    columns = (columns,) if isinstance(columns, str) else columns
    if len(columns) != len(names):
        raise UsageError(f"features {list(names)} need as many columns, not {list(columns)}")
    return tuple(
        replace(feature, name=name, column=column, table=feature.table or name)
        for name, column in zip(names, columns, strict=True)
    )


def _check_history(
    feature: RaggedSettings, history: HistorySettings, features: tuple[FeatureSettings, ...]
) -> None:
    if feature.scope != Scope.QUERY:
        raise UsageError(f"feature {feature.name!r} is a history, so its scope must be query")
    partners = [f for f in features if isinstance(f, SparseSettings) and f.column == history.of]
    if feature.table not in {f.table for f in partners}:
        raise UsageError(
            f"the history {feature.name!r} looks {history.of!r} up in the table "
            f"{feature.table!r}, so a sparse feature of that column must use that table"
        )
    others = [f for f in features if f.scope == Scope.QUERY and f is not feature]
    if feature.name in {field for other in others for field in _raw_fields(other)}:
        raise UsageError(
            f"the history {feature.name!r} has the name of a query-level column; a client would "
            "send both under one name, so call the history something else"
        )


def _raw_fields(feature: FeatureSettings) -> tuple[str, ...]:
    """Return the names under which a client sends what an expanded feature needs."""
    if isinstance(feature, DenseSettings):
        return feature.columns
    if isinstance(feature, BagSettings | SequenceSettings) and feature.history:
        return (feature.name,)
    return (str(feature.column),)
