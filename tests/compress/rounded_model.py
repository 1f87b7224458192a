"""A small model with one table that bears no rounding, one that hardly counts, and a narrow one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from headway.compress.lowering import lower_explained
from headway.core import Dense, Schema, Scope, Sparse, Table, Task
from headway.data import Dataset
from headway.graph import Lowered

ROWS, DIM = 60, 16
SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=4),
        Sparse(name="far", table="far", scope=Scope.CANDIDATE),
        Sparse(name="faint", table="faint", scope=Scope.CANDIDATE),
        Sparse(name="narrow", table="narrow", scope=Scope.CANDIDATE),
    ),
    tables=(
        Table(name="far", rows=ROWS, dim=DIM),
        Table(name="faint", rows=ROWS, dim=DIM),
        Table(name="narrow", rows=ROWS, dim=1),
    ),
    tasks=(Task(name="click"), Task(name="buy")),
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        # So far from zero for its span that four bits are too coarse.
        self.far = nn.Parameter(torch.randn(ROWS, DIM, generator=rng) + 30)
        self.faint = nn.Parameter(torch.randn(ROWS, DIM, generator=rng))
        self.narrow = nn.Parameter(torch.randn(ROWS, 1, generator=rng))
        self.first = nn.Parameter(torch.randn(4 + 2 * DIM, 24, generator=rng))
        self.last = nn.Parameter(torch.randn(24, 2, generator=rng))

    def forward(self, features: dict[str, Any]) -> torch.Tensor:
        far = nn.functional.embedding(features["far"], self.far) - 30
        faint = nn.functional.embedding(features["faint"], self.faint) / 100
        joined = torch.cat([features["age"], far, faint], dim=1)
        out: torch.Tensor = torch.relu(joined @ self.first) @ self.last
        return out + nn.functional.embedding(features["narrow"], self.narrow)


@cache
def lowered() -> Lowered:
    return lower_explained(Model(), SCHEMA)[0]


def rows(queries: int = 40, each: int = 10) -> Dataset:
    rng = np.random.default_rng(1)
    count = queries * each
    return Dataset(
        schema=SCHEMA,
        context={"age": rng.standard_normal((queries, 4), np.float32)},
        candidates={name: rng.integers(0, ROWS, count) for name in ("far", "faint", "narrow")},
        row_to_query=np.repeat(np.arange(queries, dtype=np.int64), each),
        labels=np.zeros((count, 2), np.float32),
    )
