"""Planted worlds are reproducible, well formed, and their truth explains their clicks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import (
    Bag,
    Dense,
    Feature,
    Pooling,
    Ragged,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    Task,
    UsageError,
    check_query,
)
from headway.data import Dataset, Planted, PlantedSettings, plant
from headway.data.planted_world import World

SMALL = PlantedSettings(train=30_000, valid=2_000, choose=2_010, test=20_000)
PARTS = ("train", "valid", "choose", "test")
ALL_KINDS = Schema(
    features=(
        Dense(name="numbers", scope=Scope.QUERY, width=40),
        Sparse(name="user", table="user", scope=Scope.QUERY),
        Bag(name="tags", table="tag", scope=Scope.QUERY, max_length=5, pooling=Pooling.MEAN),
        Sequence(name="history", table="item", scope=Scope.QUERY, max_length=12),
        Dense(name="price", scope=Scope.CANDIDATE, width=1),
        Sparse(name="item", table="item", scope=Scope.CANDIDATE),
        Bag(name="topics", table="tag", scope=Scope.CANDIDATE, max_length=4),
        Sequence(name="frames", table="frame", scope=Scope.CANDIDATE, max_length=3),
    ),
    tables=(
        Table(name="user", rows=3_000, dim=8),
        Table(name="tag", rows=100, dim=8),
        Table(name="item", rows=5_000, dim=8),
        Table(name="frame", rows=2, dim=8),
    ),
    tasks=(Task(name="click"), Task(name="buy")),
)


@pytest.fixture(scope="module")
def small() -> Planted:
    return plant(ALL_KINDS, SMALL, np.random.default_rng(7))


def _ids(dataset: Dataset, name: str) -> np.ndarray:
    column = {**dataset.context, **dataset.candidates}[name]
    return column.values if isinstance(column, Ragged) else column


def test_every_part_fits_the_schema_and_has_its_rows(small: Planted) -> None:
    for part in PARTS:
        dataset: Dataset = getattr(small, part)
        assert len(dataset) == getattr(SMALL, part)
        assert dataset.queries == -(-len(dataset) // SMALL.candidates)
        assert small.oracle_logits[part].shape == dataset.labels.shape  # type: ignore[index]


def test_every_kind_of_feature_fills_its_range(small: Planted) -> None:
    for feature in ALL_KINDS.id_features():
        ids, rows = _ids(small.train, feature.name), ALL_KINDS.table(feature.table).rows
        assert ids.min() == 0
        assert ids.max() >= 0.9 * rows - 1
        if not isinstance(feature, Sparse):
            column = {**small.train.context, **small.train.candidates}[feature.name]
            assert isinstance(column, Ragged)
            assert set(column.lengths()) == set(range(feature.max_length + 1))
    for name in ("numbers", "price"):
        values = _ids(small.train, name)
        assert values.dtype == np.float32
        assert abs(values.mean()) < 0.1
        assert abs(values.std() - 1) < 0.1


def test_equal_seeds_give_equal_worlds_and_others_do_not(small: Planted) -> None:
    again = plant(ALL_KINDS, SMALL, np.random.default_rng(7))
    other = plant(ALL_KINDS, SMALL, np.random.default_rng(8))
    for part in ("train", "test"):
        mine: Dataset = getattr(small, part)
        assert np.array_equal(mine.labels, getattr(again, part).labels)
        assert np.array_equal(small.oracle_logits[part], again.oracle_logits[part])
        for feature in ALL_KINDS.features:
            assert np.array_equal(
                _ids(mine, feature.name), _ids(getattr(again, part), feature.name)
            )
        assert not np.array_equal(mine.labels, getattr(other, part).labels)


def test_clicks_come_as_often_as_the_truth_says(small: Planted) -> None:
    chance = 1 / (1 + np.exp(-small.oracle_logits["train"]))
    for task in range(2):
        order = np.argsort(chance[:, task])
        for rows in np.array_split(order, 10):
            told, came = chance[rows, task], small.train.labels[rows, task]
            deviation = np.sqrt((told * (1 - told)).sum())
            assert abs(came.sum() - told.sum()) < 5 * deviation


def test_base_rate_and_auc_are_those_asked_for() -> None:
    asked = PlantedSettings(train=40_000, valid=20, choose=20, test=20, base_rate=0.1, auc=0.75)
    world = plant(ALL_KINDS, asked, np.random.default_rng(1))
    assert np.allclose(world.train.labels.mean(axis=0), 0.1, atol=0.03)
    assert abs(world.best_auc("train") - 0.75) < 0.025


def test_tasks_go_together_but_differ(small: Planted) -> None:
    click, buy = small.oracle_logits["train"].T
    assert 0.3 < np.corrcoef(click, buy)[0, 1] < 0.9


def test_popular_ids_are_worth_more_than_rare_ones() -> None:
    effects = World(ALL_KINDS, 1.05, np.random.default_rng(0)).tables["item"].effects
    assert effects[:100].std() > 3 * effects[2_000:].std()


def test_parts_share_a_world_but_no_rows(small: Planted) -> None:
    numbers = [_ids(getattr(small, part), "numbers") for part in PARTS]
    together = np.concatenate(numbers)
    assert len(np.unique(together, axis=0)) == len(together)
    # The same ids are liked in both.
    item = [_ids(getattr(small, part), "item") for part in ("train", "test")]
    means = [
        [small.oracle_logits[part][ids == i, 0].mean() for i in range(20)]  # type: ignore[index]
        for part, ids in zip(("train", "test"), item, strict=True)
    ]
    assert np.corrcoef(means)[0, 1] > 0.8


def test_a_candidate_like_the_history_is_liked(small: Planted) -> None:
    """The history says something about the candidate that neither says alone."""
    data, kinds = small.train, 8
    history = data.context["history"]
    assert isinstance(history, Ragged)
    last = history.values[np.maximum(history.offsets[1:] - 1, 0)] % kinds
    last = np.where(history.lengths() > 0, last, kinds)[data.row_to_query]
    item = _ids(data, "item") % kinds
    cells = np.zeros((kinds + 1, kinds))
    counts = np.zeros_like(cells)
    np.add.at(cells, (last, item), small.oracle_logits["train"][:, 0])
    np.add.at(counts, (last, item), 1)
    mean = (cells / counts)[:kinds]
    alone = mean.mean(axis=0) + mean.mean(axis=1, keepdims=True) - mean.mean()
    assert (mean - alone).std() > 0.15


def test_raw_queries_of_the_world_can_be_encoded(small: Planted) -> None:
    query = small.test.query(3)
    raw = [
        {
            name: column.slice(row, row + 1).values.tolist()
            if isinstance(column, Ragged)
            else column[row].tolist()
            for name, column in columns.items()
        }
        for columns, rows in ((query.context, 1), (query.candidates, query.size))
        for row in range(rows)
    ]
    for record in raw:
        for name in ("numbers", "price"):
            if name in record:
                values = record.pop(name)
                record |= {f"{name}_{i}": value for i, value in enumerate(values)}
    encoded = small.transforms.encode_query(raw[0], raw[1:], ALL_KINDS)
    check_query(encoded, ALL_KINDS)
    assert np.array_equal(encoded.context["numbers"], query.context["numbers"])  # type: ignore[arg-type]
    assert encoded.candidates["item"].tolist() == query.candidates["item"].tolist()  # type: ignore[union-attr]


def test_wide_queries_get_more_candidates_so_that_they_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headway.data.planted.DENSE_BYTES", 4 * 64 * 100)
    schema = Schema(features=(Dense(name="wide", scope=Scope.QUERY, width=64),), tables=())
    asked = PlantedSettings(train=3_000, valid=500, choose=500, test=1_000, candidates=5)
    world = plant(schema, asked, np.random.default_rng(0))
    assert world.train.queries == 60


def test_candidates_too_wide_for_memory_are_refused() -> None:
    schema = Schema(features=(Dense(name="wide", scope=Scope.CANDIDATE, width=2_560),), tables=())
    with pytest.raises(UsageError, match="plant fewer rows"):
        plant(schema, PlantedSettings(), np.random.default_rng(0))


def test_a_skew_that_cannot_be_inverted_is_refused() -> None:
    with pytest.raises(UsageError, match=r"take 1\.01"):
        PlantedSettings(skew=1.0)


def _feature(number: int, kind: str, scope: Scope, size: int) -> Feature:
    name = f"f{number}"
    table = f"t{number % 3}"
    if kind == "dense":
        return Dense(name=name, scope=scope, width=size)
    if kind == "sparse":
        return Sparse(name=name, table=table, scope=scope)
    if kind == "bag":
        return Bag(name=name, table=table, scope=scope, max_length=size)
    return Sequence(name=name, table=table, scope=scope, max_length=size)


@given(
    features=st.lists(
        st.tuples(
            st.sampled_from(["dense", "sparse", "bag", "sequence"]),
            st.sampled_from(list(Scope)),
            st.integers(1, 20),
        ),
        min_size=1,
        max_size=6,
    ),
    rows=st.tuples(*[st.integers(1, 50)] * 3),
    candidates=st.integers(1, 30),
)
@settings(max_examples=20, deadline=None)
def test_any_schema_gets_a_world(
    features: list[tuple[str, Scope, int]], rows: tuple[int, ...], candidates: int
) -> None:
    schema = Schema(
        features=tuple(_feature(i, *f) for i, f in enumerate(features)),
        tables=tuple(Table(name=f"t{i}", rows=r, dim=4) for i, r in enumerate(rows)),
    )
    asked = PlantedSettings(train=50, valid=1, choose=7, test=20, candidates=candidates)
    world = plant(schema, asked, np.random.default_rng(0))
    assert all(np.isfinite(world.oracle_logits[part]).all() for part in PARTS)  # type: ignore[index]
