"""The load generator and Headway's own server understand each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.loadgen.local_server import SCHEMA

from headway.core import Columns, Hidden, Piece, Plan, Query, Ragged, Runner, Sla, from_ms
from headway.loadgen import Bench, BenchSettings, fetch_schema
from headway.measure import LbtSettings, Outcome
from headway.server import BackgroundServer, ServedModel
from headway.workload import draw_queries

pytestmark = pytest.mark.net
QUICK = BenchSettings(seconds=0.4, warmup_s=0.1, pool=50, connections=4)


class SumRunner:
    """Scores by a sum over every value of every feature, so that a lost one shows."""

    def query(self, context: Columns) -> Hidden:
        age, liked, history = context["age"], context["liked"], context["history"]
        assert isinstance(liked, Ragged)
        assert isinstance(history, Ragged)
        weights = np.arange(1, len(history.values) + 1)
        return float(
            np.asarray(age).sum()
            + liked.values.sum() / 5000
            + (history.values * weights).sum() / 1e5
        )

    def candidates(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            assert isinstance(piece.hidden, float)
            rows = slice(piece.start, piece.stop)
            item = np.asarray(piece.candidates["item"])[rows]
            price = np.asarray(piece.candidates["price"])[rows, 0]
            piece.out[rows, 0] = piece.hidden + item / 5000 + price

    def close(self) -> None:
        pass


def scores_without_a_wire(query: Query) -> NDArray[np.float64]:
    runner = SumRunner()
    raw = np.zeros((query.size, 1), np.float32)
    hidden = runner.query(query.context)
    runner.candidates([Piece(hidden, query.candidates, 0, query.size, raw)])
    return 1 / (1 + np.exp(-raw[:, 0].astype(np.float64)))


def new_runner() -> Runner:
    return SumRunner()


@pytest.fixture
def url() -> Iterator[str]:
    model = ServedModel("sum", SCHEMA, Plan(split_size=64), new_runner)
    with BackgroundServer([model]) as server:
        yield server.url


def test_scores_over_the_wire_are_the_models(url: str) -> None:
    assert fetch_schema(url, "sum") == SCHEMA
    bench = Bench(url, "sum", QUICK)
    for query in draw_queries(SCHEMA, np.array([1, 7, 200]), np.random.default_rng(0)):
        np.testing.assert_allclose(bench.scores(query), scores_without_a_wire(query), atol=1e-6)


def test_a_real_server_has_a_latency_and_a_highest_rate(url: str) -> None:
    bench = Bench(url, "sum", QUICK)
    assert (bench.one_by_one(64, 10).status == Outcome.OK).all()
    search = LbtSettings(
        sla=Sla(percentile=90.0, limit_ns=from_ms(400)), start_qps=80, highest_qps=80
    )
    found = bench.lbt(search)
    assert found.lbt_qps > 0
    assert found.lbt_cps > 50 * found.lbt_qps
