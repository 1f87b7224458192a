"""From settings to data sets: train teaches, serving encodes as training did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from headway.core import Columns, DataError, QueryError, Ragged, Schema, UsageError, check_query
from headway.data import (
    Dataset,
    DataSettings,
    Prepared,
    RawTable,
    Transforms,
    fingerprint,
    load_data,
    prepare,
)

PARTS = ("train", "valid", "choose", "test")
SETTINGS = """
reader: {kind: table, path: unused.csv, columns: {}}
label: {column: rating, at_least: 4}
split: {by: user, user: user, time: time, test: 0.25, choose: 0.1, valid: 0.1}
query_by: [user, time]
default_table: {dim: 4}
tables:
  age: {dim: 4, ids: {kind: buckets, count: 3}}
  item: {dim: 4, ids: {kind: vocabulary, min_count: 2}}
  shop: {dim: 4, ids: {kind: hashing, buckets: 50}}
  hour: {dim: 4, ids: {kind: identity, rows: 24}}
features:
  - {kind: sparse, scope: query, name: [user, age]}
  - {kind: sparse, scope: candidate, name: [item, shop, hour]}
  - {kind: dense, scope: candidate, name: price, log: true, standardise: true, fill: 1}
  - {kind: dense, scope: query, name: person, columns: [age, height]}
  - {kind: bag, scope: candidate, name: tags, max_length: 2, pooling: mean}
  - kind: sequence
    scope: query
    name: liked
    table: item
    max_length: 3
    history: {of: item, user: user, time: time, where: {column: rating, at_least: 4}}
"""


def settings(**changes: Any) -> DataSettings:
    return msgspec.convert(yaml.safe_load(SETTINGS) | changes, DataSettings)


def objects(values: list[Any]) -> np.ndarray[Any, Any]:
    return np.fromiter(values, object, len(values))


def raw_table(seed: int, rows: int = 120) -> RawTable:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 4, rows)
    price = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(5, 9, rows))
    tags = [tuple("pqrs"[i] for i in rng.integers(0, 4, rng.integers(0, 4))) for _ in range(rows)]
    return RawTable(
        {
            "user": objects([f"u{u}" for u in users]),
            "time": rng.integers(0, 60, rows).astype(float),
            "item": objects([f"i{i}" for i in rng.integers(0, 20, rows)]),
            "rating": rng.integers(1, 6, rows).astype(float),
            "shop": objects([None if s == 0 else f"s{s}" for s in rng.integers(0, 9, rows)]),
            "hour": rng.integers(0, 24, rows).astype(float),
            "age": np.array([20.0, np.nan, 40.0, 50.0])[users],
            "height": np.array([1.5, 1.6, 1.7, np.nan])[users],
            "price": price,
            "tags": objects(tags),
        }
    )


PREPARED = prepare(raw_table(0), settings())


@pytest.fixture
def prepared() -> Prepared:
    return PREPARED


def same(first: Columns, second: Columns) -> bool:
    if first.keys() != second.keys():
        return False
    for name, a in first.items():
        b = second[name]
        if isinstance(a, Ragged) and isinstance(b, Ragged):
            equal = np.array_equal(a.values, b.values) and np.array_equal(a.offsets, b.offsets)
        else:
            equal = a.dtype == b.dtype and np.array_equal(a, b)  # type: ignore[union-attr, arg-type]
        if not equal:
            return False
    return True


def as_sent(record: dict[str, object]) -> dict[str, object]:
    """Return a record as it arrives after a journey as JSON."""
    out: dict[str, object] = msgspec.json.decode(msgspec.json.encode(record))
    return out


@run(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_serving_encodes_raw_rows_as_training_did(seed: int) -> None:
    try:
        prepared = prepare(raw_table(seed, 60), settings())
    except DataError:
        return  # a part came out empty
    transforms = Transforms.from_json(prepared.transforms.to_json())
    for part in PARTS:
        dataset: Dataset = getattr(prepared, part)
        for index in range(dataset.queries):
            context, candidates = prepared.raw_query(part, index)  # type: ignore[arg-type]
            sent = [as_sent(c) for c in candidates]
            query = transforms.encode_query(as_sent(context), sent, prepared.schema)
            check_query(query, prepared.schema)
            known = dataset.query(index)
            assert query.size == known.size
            assert same(query.context, known.context)
            assert same(query.candidates, known.candidates)


def test_the_fingerprint_tells_other_rows_splits_and_labels_apart() -> None:
    raw, mine = raw_table(0), settings()
    split = {"by": "user", "user": "user", "time": "time", "test": 0.3, "choose": 0.1}
    others = [
        prepare(raw_table(1), mine),
        prepare(raw, settings(split=split)),
        prepare(raw, settings(label={"column": "rating", "at_least": 3})),
    ]
    found = [fingerprint(p) for p in (PREPARED, *others)]
    assert len(set(found)) == 4
    assert fingerprint(prepare(raw, mine)) == found[0]
    assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in found)


def test_rows_of_the_same_encoding_in_other_parts_have_another_fingerprint() -> None:
    rows = dict(PREPARED.rows)
    rows["valid"], rows["choose"] = rows["choose"], rows["valid"]
    assert fingerprint(replace(PREPARED, rows=rows)) != fingerprint(PREPARED)


def test_transforms_survive_json_exactly(prepared: Prepared) -> None:
    again = Transforms.from_json(prepared.transforms.to_json())
    assert again == prepared.transforms
    assert again.to_json() == prepared.transforms.to_json()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"features":{},"encoders":{},"x":1}'])
def test_other_json_is_not_taken_for_transforms(data: bytes) -> None:
    with pytest.raises(DataError, match="these are not transforms"):
        Transforms.from_json(data)


def test_nothing_is_learnt_from_rows_that_stop_choose_or_judge() -> None:
    raw = raw_table(1)
    first = prepare(raw, settings())
    held_out = np.concatenate([first.rows[part] for part in PARTS[1:]])
    columns = {name: column.copy() for name, column in raw.columns.items()}
    for name in ("item", "shop", "user"):
        columns[name][held_out] = "never seen" if name != "user" else columns[name][held_out]
    columns["price"][held_out] = 1e6
    columns["age"][held_out] = columns["age"][held_out]
    second = prepare(RawTable(columns), settings())
    assert second.transforms == first.transforms


def test_each_row_is_in_one_part_and_labels_follow_the_rule(prepared: Prepared) -> None:
    rows = np.concatenate([prepared.rows[part] for part in PARTS])
    assert sorted(rows.tolist()) == list(range(len(prepared.raw)))
    ratings = prepared.raw.numbers("rating")
    for part in PARTS:
        labels = getattr(prepared, part).labels[:, 0]
        assert np.array_equal(labels, ratings[prepared.rows[part]] >= 4)


def test_a_history_shares_the_table_and_the_ids_of_its_items(prepared: Prepared) -> None:
    context, candidates = prepared.raw_query("test", 0)
    liked = ["i1", "unseen", "i1"]
    item = [{**c, "item": "i1"} for c in candidates[:1]]
    query = prepared.transforms.encode_query({**context, "liked": liked}, item, prepared.schema)
    history, sparse = query.context["liked"], query.candidates["item"]
    assert isinstance(history, Ragged)
    assert not isinstance(sparse, Ragged)
    assert history.values.tolist() == [sparse[0], 0, sparse[0]]


def test_a_list_that_is_too_long_keeps_its_newest_end(prepared: Prepared) -> None:
    context, candidates = prepared.raw_query("test", 0)
    long = {**context, "liked": ["i1"] * 1000 + ["i2", "i3", "i4"]}
    short = {**context, "liked": ["i2", "i3", "i4"]}
    encode = prepared.transforms.encode_query
    assert same(
        encode(long, candidates, prepared.schema).context,
        encode(short, candidates, prepared.schema).context,
    )


def test_a_query_without_candidates_is_a_query(prepared: Prepared) -> None:
    context, _ = prepared.raw_query("test", 0)
    query = prepared.transforms.encode_query(context, [], prepared.schema, name="q")
    check_query(query, prepared.schema)
    assert (query.id, query.size) == ("q", 0)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("item", 1.5, r"candidates\[1\], field 'item': text or a whole number is needed, not 1.5"),
        ("item", True, r"candidates\[1\], field 'item'"),
        ("shop", "\ud800", r"candidates\[1\], field 'shop': the text is not valid Unicode"),
        ("price", "9", r"candidates\[1\], field 'price': a number is needed, not '9'"),
        ("price", float("nan"), r"candidates\[1\], field 'price': a finite number"),
        ("price", -float("inf"), r"candidates\[1\], field 'price': a finite number"),
        ("hour", 24, r"candidates\[1\], field 'hour': 24 is not a row number from 0 to 23"),
        ("hour", None, r"candidates\[1\], field 'hour': None is not a row number"),
        ("tags", "p", r"candidates\[1\], field 'tags': a list is needed, not a value of type str"),
        ("tags", ["p", {}], r"candidates\[1\], field 'tags': text or a whole number is needed"),
        ("liked", 3, "query, field 'liked': a list is needed"),
        ("age", "old", "query, field 'age': a number is needed, not 'old'"),
    ],
)
def test_a_bad_value_is_named_by_place_and_field(
    prepared: Prepared, field: str, value: object, complaint: str
) -> None:
    context, candidates = prepared.raw_query("test", 0)
    records = [dict(candidates[0]) for _ in range(3)]
    if field in context:
        context[field] = value
    else:
        records[1][field] = value
    with pytest.raises(QueryError, match=complaint):
        prepared.transforms.encode_query(context, records, prepared.schema)


def test_missing_and_unknown_fields_are_named(prepared: Prepared) -> None:
    context, candidates = prepared.raw_query("test", 0)
    encode, schema = prepared.transforms.encode_query, prepared.schema
    with pytest.raises(QueryError, match=r"candidates\[0\] lacks the field 'shop'"):
        encode(context, [{k: v for k, v in candidates[0].items() if k != "shop"}], schema)
    with pytest.raises(QueryError, match="query has an unknown field 'colour'"):
        encode({**context, "colour": 1}, candidates, schema)
    with pytest.raises(QueryError, match=r"candidates\[0\] must be an object of fields, not int"):
        encode(context, [3], schema)  # type: ignore[list-item]


@run(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["item", "shop", "hour", "price", "tags", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_whatever_is_sent_is_encoded_or_refused(record: dict[str, object]) -> None:
    context, candidates = PREPARED.raw_query("test", 0)
    sent = [{**candidates[0], **record}]
    try:
        query = PREPARED.transforms.encode_query(context, sent, PREPARED.schema)
    except QueryError as error:
        message = str(error)
    else:
        check_query(query, PREPARED.schema)
        message = ""
    assert len(message) < 300


def test_transforms_of_another_model_are_refused(prepared: Prepared) -> None:
    other = Schema(features=prepared.schema.features, tables=prepared.schema.tables)
    for part in ("features", "encoders"):
        lacking = msgspec.structs.replace(prepared.transforms, **{part: {}})
        with pytest.raises(UsageError, match="has no fitting transform"):
            lacking.encode_query({}, [], other)


def test_rows_of_one_query_stand_together_and_share_their_context() -> None:
    raw = raw_table(2)
    raw.columns["time"][:] = np.arange(120) % 30 // 2
    found = prepare(raw, settings())
    keys = list(zip(raw.values("user"), raw.values("time"), strict=True))
    for part in PARTS:
        dataset: Dataset = getattr(found, part)
        rows = found.rows[part]
        assert dataset.queries == len({keys[r] for r in rows})
        for row, query in zip(rows, dataset.row_to_query, strict=True):
            first = rows[np.searchsorted(dataset.row_to_query, query)]
            assert keys[row] == keys[first]


def test_a_query_level_feature_that_varies_within_a_query_is_refused() -> None:
    with pytest.raises(DataError, match="'liked' differs among impressions of one query"):
        prepare(raw_table(0), settings(query_by=["user"]))


def test_labels_must_be_zero_or_one_without_a_rule() -> None:
    with pytest.raises(DataError, match=r"neither 0 nor 1; set label\.at_least"):
        prepare(raw_table(0), settings(label={"column": "rating"}))
    raw = raw_table(0)
    raw.columns["rating"][7] = np.nan
    with pytest.raises(DataError, match="'rating' has no value in row 7"):
        prepare(raw, settings())


def test_a_bad_training_value_is_named_by_column() -> None:
    raw = raw_table(0)
    raw.columns["hour"][:] = 24
    with pytest.raises(DataError, match=r"column 'hour', row 0: 24\.0 is not a row number"):
        prepare(raw, settings())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tables": {"goods": {"dim": 4}}}, "no feature uses the table 'goods'"),
        ({"scope": "candidate"}, "its scope must be query"),
        ({"table": "shop"}, "a sparse feature of that column must use that table"),
        ({"name": "user"}, "has the name of a query-level column"),
        ({"name": "height"}, "has the name of a query-level column"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    decoded = yaml.safe_load(SETTINGS)
    if "tables" in changes:
        decoded |= changes
    else:
        decoded["features"][-1] |= changes
    with pytest.raises(UsageError, match=complaint):
        msgspec.convert(decoded, DataSettings)


def test_an_unknown_key_is_named_by_its_path() -> None:
    decoded = yaml.safe_load(SETTINGS)
    decoded["features"][0]["colour"] = "red"
    with pytest.raises(msgspec.ValidationError, match=r"`colour` - at `\$\.features\[0\]`"):
        msgspec.convert(decoded, DataSettings)


@pytest.mark.parametrize(
    ("feature", "key", "value"),
    [(0, "name", ["user id"]), (2, "name", "a.b"), (4, "table", "t-1"), (5, "name", "x\n")],
)
def test_a_name_that_no_bundle_can_hold_is_refused_with_the_config(
    feature: int, key: str, value: object
) -> None:
    decoded = yaml.safe_load(SETTINGS)
    decoded["features"][feature][key] = value
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.features\[{feature}\]\.{key}"):
        msgspec.convert(decoded, DataSettings)
    with pytest.raises(msgspec.ValidationError, match=r"`\$\.label\.task`"):
        settings(label={"column": "rating", "at_least": 4, "task": "buy it"})


def test_a_history_may_not_share_its_name_with_a_list() -> None:
    decoded = yaml.safe_load(SETTINGS)
    decoded["features"][4] |= {"scope": "query", "name": "marks", "column": "liked"}
    with pytest.raises(UsageError, match="'liked' has the name of a query-level column"):
        msgspec.convert(decoded, DataSettings)


def test_names_and_columns_of_a_list_must_pair_up() -> None:
    decoded = yaml.safe_load(SETTINGS)
    decoded["features"][0]["column"] = ["user"]
    with pytest.raises(UsageError, match="need as many columns"):
        msgspec.convert(decoded, DataSettings)


EXAMPLES = Path(__file__).parents[2] / "examples"
REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data sets beside the checkout")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("movielens", (69_002, 5_042, 4_881, 21_075)),
        ("criteo", (7_000, 500, 500, 2_000)),
        ("frappe", (225_360, 14_327, 14_326, 34_596)),
    ],
)
def test_examples_read_their_data(name: str, sizes: tuple[int, ...]) -> None:
    config = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    found = load_data(msgspec.convert(config["data"], DataSettings), EXAMPLES)
    assert tuple(len(getattr(found, part)) for part in PARTS) == sizes
    for index in range(0, found.test.queries, found.test.queries // 20):
        context, candidates = found.raw_query("test", index)
        query = found.transforms.encode_query(context, candidates, found.schema)
        check_query(query, found.schema)
        assert same(query.context, found.test.query(index).context)
        assert same(query.candidates, found.test.query(index).candidates)
