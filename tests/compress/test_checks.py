"""Doubts about the data and about the model's scores."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from headway.compress.checks import data_warnings, score_warnings
from headway.compress.rows import sample_queries, sample_rows
from headway.core import Column, DataError, Link, Ragged, Task, check_query
from headway.data import Synthetic, SyntheticSettings, generate


@pytest.fixture(scope="module")
def world() -> Synthetic:
    settings = SyntheticSettings(
        train=3000, valid=200, choose=400, test=1000, users=500, items=500,
        creatives=500, sellers=500, publishers=500,
    )  # fmt: skip
    return generate(settings, np.random.default_rng(0))


def test_separate_parts_raise_no_doubt(world: Synthetic) -> None:
    assert data_warnings(world.train, world.choose, world.test) == []


def test_copied_rows_are_noticed_though_grouped_otherwise(world: Synthetic) -> None:
    copied = world.train.take(np.arange(1, len(world.train), 2))
    (warning,) = data_warnings(world.train, world.choose, copied)
    assert warning.startswith("100.0% of the test rows stand among the training rows")
    (warning,) = data_warnings(world.train, world.test, world.test)
    assert "choosing" in warning


def test_rows_shared_with_the_validation_part_are_noticed(world: Synthetic) -> None:
    assert data_warnings(world.train, world.choose, world.test, world.valid) == []
    (warning,) = data_warnings(world.train, world.choose, world.test, world.test)
    assert "validation" in warning


def test_a_part_of_another_schema_is_refused_though_it_has_as_many_features(
    world: Synthetic,
) -> None:
    task = Task(name="bought", link=Link.SIGMOID)
    other = replace(world.choose, schema=msgspec.structs.replace(world.schema, tasks=(task,)))
    with pytest.raises(DataError, match="choosing part"):
        data_warnings(world.train, other, world.test)


def test_a_row_with_another_number_or_history_is_another_row(world: Synthetic) -> None:
    numbers, history = world.train.context["numbers"], world.train.context["history"]
    assert not isinstance(numbers, Ragged)
    assert isinstance(history, Ragged)
    changes: list[dict[str, Column]] = [
        {"numbers": numbers + np.float32(1e-3)},
        {"history": Ragged((history.values + 1) % 500, history.offsets)},
    ]
    for change in changes:
        other = replace(world.train, context={**world.train.context, **change})
        assert data_warnings(world.train, world.choose, other) == []


def test_scores_that_say_nothing_are_refused(world: Synthetic) -> None:
    rows = len(world.test)
    with pytest.raises(DataError, match="same output"):
        score_warnings(world.test, np.ones((rows, 1), np.float32))
    broken = np.arange(rows, dtype=np.float32)[:, None]
    broken[3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        score_warnings(world.test, broken)


def test_scores_the_wrong_way_round_are_noticed(world: Synthetic) -> None:
    noise = np.random.default_rng(1).normal(size=world.test.labels.shape).astype(np.float32)
    assert score_warnings(world.test, world.test.labels + 0.1 * noise) == []
    (warning,) = score_warnings(world.test, 0.1 * noise - world.test.labels)
    assert "worse than chance" in warning


def test_drawn_queries_fit_the_schema_and_hold_the_datas_own_ids(world: Synthetic) -> None:
    queries = sample_queries(world.choose, 37, 5, np.random.default_rng(2))
    assert len(queries) == 5
    for query in queries:
        check_query(query, world.schema)
        assert query.size == 37
        ids, known = query.candidates["item"], world.choose.candidates["item"]
        assert not isinstance(ids, Ragged)
        assert not isinstance(known, Ragged)
        assert np.isin(ids, known).all()
    empty = world.choose.take(np.empty(0, np.int64))
    with pytest.raises(DataError, match="empty"):
        sample_queries(empty, 3, 1, np.random.default_rng(0))


def test_a_sample_is_of_the_size_asked_for(world: Synthetic) -> None:
    assert len(sample_rows(world.train, 100, np.random.default_rng(3))) == 100
    assert sample_rows(world.choose, 10_000, np.random.default_rng(3)) is world.choose
