"""Latency is taken per whole query, in turns, by the clock that is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headway.core import Columns, Hidden, ManualClock, Piece, Query, from_seconds
from headway.engine import compare_latency, measure_latency


class Counted:
    """A runner that takes a stated time for a query and for each candidate."""

    def __init__(self, clock: ManualClock, per_query: int, per_row: int, log: list[str]) -> None:
        self.clock, self.per_query, self.per_row, self.log = clock, per_query, per_row, log

    def query(self, context: Columns) -> Hidden:
        self.clock.advance(self.per_query)
        return None

    def candidates(self, pieces: Sequence[Piece]) -> None:
        self.log.append(f"{self.per_row}")
        self.clock.advance(self.per_row * sum(p.stop - p.start for p in pieces))

    def close(self) -> None:
        pass


def sized(size: int) -> Query:
    return Query("", {}, {}, size)


def test_sample_is_the_time_of_query_and_candidates() -> None:
    clock = ManualClock()
    samples = measure_latency(Counted(clock, 100, 7, []), [sized(10), sized(20)], clock, seconds=0)
    np.testing.assert_array_equal(samples, [170, 240, 170, 240, 170])


def test_runners_take_turns_on_the_same_queries_and_nobody_is_always_first() -> None:
    clock, log = ManualClock(), list[str]()
    runners = {"a": Counted(clock, 0, 1, log), "b": Counted(clock, 0, 2, log)}
    found = compare_latency(runners, {5: [sized(5)]}, clock, 0.0)
    assert {name: list(by[5]) for name, by in found.items()} == {"a": [5] * 5, "b": [10] * 5}
    measured = log[-10:]
    assert measured == ["1", "2", "2", "1", "1", "2", "2", "1", "1", "2"]


def test_time_is_shared_among_the_sizes() -> None:
    clock = ManualClock()
    runner = Counted(clock, 1_000_000, 0, [])
    found = compare_latency({"a": runner}, {1: [sized(1)], 9: [sized(9)]}, clock, 0.1)
    assert [len(samples) for samples in found["a"].values()] == [50, 50]
    assert clock.now() < from_seconds(0.11)
