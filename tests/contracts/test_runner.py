"""What every runner promises, whoever computes: same outputs, however the work is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.contracts.tiny_ranker import TASKS, draw, expected, make_compiled, make_torch

from headway.core import Piece, Query, Runner
from headway.engine import raw_outputs
from headway.engine.process import ProcessRunner

HERE = "tests.contracts.tiny_ranker"
MAKERS: dict[str, Callable[[], Runner]] = {
    "compiled": lambda: make_compiled(""),
    "torch": lambda: make_torch(""),
    "torch in a process": lambda: ProcessRunner(factory=f"{HERE}:make_torch", argument="1"),
    "compiled in a process": lambda: ProcessRunner(factory=f"{HERE}:make_compiled"),
}


@pytest.fixture(params=MAKERS, scope="module")
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    made = MAKERS[request.param]()
    yield made
    made.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def close_to(found: NDArray[np.float32], query: Query) -> None:
    np.testing.assert_allclose(found, expected(query), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 256])
def test_whole_query_is_scored(runner: Runner, rng: np.random.Generator, size: int) -> None:
    query = draw(rng, size)
    (found,) = raw_outputs(runner, [query], TASKS)
    close_to(found, query)


def test_chunks_of_a_query_fill_exactly_their_slots(
    runner: Runner, rng: np.random.Generator
) -> None:
    query = draw(rng, 100)
    hidden = runner.query(query.context)
    out = np.full((100, TASKS), np.nan, np.float32)
    for start, stop in ((64, 100), (0, 1), (1, 33)):
        runner.candidates([Piece(hidden, query.candidates, start, stop, out)])
    assert np.isnan(out[33:64]).all()
    runner.candidates([Piece(hidden, query.candidates, 33, 64, out)])
    close_to(out, query)


def test_pieces_of_several_queries_are_scored_in_one_batch(
    runner: Runner, rng: np.random.Generator
) -> None:
    queries = [draw(rng, size) for size in (5, 40, 1, 300)]
    for query, found in zip(queries, raw_outputs(runner, queries, TASKS), strict=True):
        close_to(found, query)


def test_several_chunks_of_one_query_beside_another_query(
    runner: Runner, rng: np.random.Generator
) -> None:
    one, two = draw(rng, 50), draw(rng, 20)
    outs = [np.zeros((q.size, TASKS), np.float32) for q in (one, two)]
    first, second = runner.query(one.context), runner.query(two.context)
    runner.candidates(
        [
            Piece(first, one.candidates, 30, 50, outs[0]),
            Piece(second, two.candidates, 0, 20, outs[1]),
            Piece(first, one.candidates, 0, 30, outs[0]),
        ]
    )
    close_to(outs[0], one)
    close_to(outs[1], two)


def test_hidden_of_one_query_survives_the_next(runner: Runner, rng: np.random.Generator) -> None:
    one, two = draw(rng, 7), draw(rng, 9)
    hidden = runner.query(one.context)
    raw_outputs(runner, [two], TASKS)
    out = np.empty((7, TASKS), np.float32)
    runner.candidates([Piece(hidden, one.candidates, 0, 7, out)])
    close_to(out, one)


def test_no_candidates_is_no_work(runner: Runner, rng: np.random.Generator) -> None:
    empty, query = draw(rng, 0), draw(rng, 3)
    runner.candidates([])
    assert raw_outputs(runner, [empty], TASKS)[0].shape == (0, TASKS)
    none, found = raw_outputs(runner, [empty, query], TASKS)
    assert none.shape == (0, TASKS)
    close_to(found, query)
    out = np.full((3, TASKS), np.nan, np.float32)
    runner.candidates([Piece(runner.query(query.context), query.candidates, 2, 2, out)])
    assert np.isnan(out).all()


def test_read_only_columns_are_taken(runner: Runner, rng: np.random.Generator) -> None:
    query = draw(rng, 6)
    for columns in (query.context, query.candidates):
        for column in columns.values():
            for array in [column] if isinstance(column, np.ndarray) else [column.values]:
                array.flags.writeable = False
    (found,) = raw_outputs(runner, [query], TASKS)
    close_to(found, query)


def test_same_input_gives_the_same_bits_twice(runner: Runner, rng: np.random.Generator) -> None:
    query = draw(rng, 64)
    first, second = (raw_outputs(runner, [query], TASKS)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
