"""A small click log with a known rule, shared by the tests of this room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from headway.core import (
    Bag,
    Dense,
    Pooling,
    Ragged,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    Task,
)
from headway.data import Dataset
from headway.models import (
    DcnV2Settings,
    DienSettings,
    DinSettings,
    DlrmSettings,
    ModelSettings,
    MtWideDeepSettings,
    NcfSettings,
    WideDeepSettings,
)

ITEMS, USERS, GENRES = 40, 30, 8

SETTINGS: dict[str, ModelSettings] = {
    "dlrm": DlrmSettings(bottom_mlp=(16, 8), predict_mlp=(32, 16)),
    "dlrm_dot": DlrmSettings(bottom_mlp=(16, 8), predict_mlp=(32,), interaction="dot"),
    "wide_deep": WideDeepSettings(deep_mlp=(32, 16), dropout=0.1),
    "din": DinSettings(attention_mlp=(16,), predict_mlp=(32,), activation="prelu"),
    "dien": DienSettings(hidden=12, predict_mlp=(32,)),
    "ncf": NcfSettings(factors=("user", "item"), mlp=(32, 16), predict_mlp=(16,), dropout=0.1),
    "mt_wide_deep": MtWideDeepSettings(shared_mlp=(32,), task_mlp=(16,), dropout=0.1),
    "dcn_v2": DcnV2Settings(bottom_mlp=(16, 8), cross_layers=2, cross_rank=4, predict_mlp=(32,)),
}


def make_schema(dim: int = 8, tasks: tuple[Task, ...] = (Task(),)) -> Schema:
    """Return a schema with every kind of feature in both scopes."""
    return Schema(
        features=(
            Dense(name="age", scope=Scope.QUERY, width=2),
            Sparse(name="user", table="users", scope=Scope.QUERY),
            Sequence(name="history", table="items", scope=Scope.QUERY, max_length=5),
            Bag(name="liked", table="genres", scope=Scope.QUERY, max_length=4),
            Dense(name="price", scope=Scope.CANDIDATE),
            Sparse(name="item", table="items", scope=Scope.CANDIDATE),
            Bag(
                name="genres",
                table="genres",
                scope=Scope.CANDIDATE,
                max_length=3,
                pooling=Pooling.MEAN,
            ),
        ),
        tables=(
            Table(name="items", rows=ITEMS, dim=dim),
            Table(name="users", rows=USERS, dim=dim),
            Table(name="genres", rows=GENRES, dim=dim),
        ),
        tasks=tasks,
    )


def make_dataset(queries: int, seed: int, schema: Schema | None = None) -> Dataset:
    """Return five impressions a query; clicks follow price, item and user in a known way."""
    rng = np.random.default_rng(seed)
    schema = schema or make_schema()
    rows = queries * 5
    user, item = rng.integers(0, USERS, queries), rng.integers(0, ITEMS, rows)
    price = rng.normal(size=(rows, 1)).astype(np.float32)
    row_to_query = np.repeat(np.arange(queries), 5)
    logit = 2 * price[:, 0] + np.where(item % 3 == 0, 2.0, -1.0)
    logit += np.where(user[row_to_query] % 2 == 0, 1.0, -1.0)
    clicks = rng.random((rows, len(schema.tasks))) < 1 / (1 + np.exp(-logit[:, None]))
    return Dataset(
        schema=schema,
        context={
            "age": rng.normal(size=(queries, 2)).astype(np.float32),
            "user": user,
            "history": _ragged(rng, queries, ITEMS, 5),
            "liked": _ragged(rng, queries, GENRES, 4),
        },
        candidates={
            "price": price,
            "item": item,
            "genres": _ragged(rng, rows, GENRES, 3),
        },
        row_to_query=row_to_query,
        labels=clicks.astype(np.float32),
    )


def _ragged(rng: np.random.Generator, rows: int, limit: int, longest: int) -> Ragged:
    return Ragged.from_rows(
        [rng.integers(0, limit, rng.integers(0, longest + 1)) for _ in range(rows)]
    )


@pytest.fixture(scope="session")
def schema() -> Schema:
    return make_schema()


@pytest.fixture(scope="session")
def click_log() -> Callable[[int, int], Dataset]:
    return make_dataset


@pytest.fixture(params=sorted(SETTINGS))
def settings(request: pytest.FixtureRequest) -> ModelSettings:
    return SETTINGS[request.param]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Two threads would spend their time waiting for each other on models this small.
    torch.set_num_threads(1)
