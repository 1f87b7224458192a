"""A history holds what was known strictly before, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import Ragged
from headway.data import earlier_rows

events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=40)


def as_lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.slice(i, i + 1).values.tolist() for i in range(len(ragged))]


def brute_force(rows: list[tuple[int, int, bool]], max_length: int) -> list[list[int]]:
    out = []
    for user, time, _ in rows:
        past = [(t, i) for i, (u, t, kept) in enumerate(rows) if kept and u == user and t < time]
        out.append([i for _, i in sorted(past)][-max_length:])
    return out


@settings(deadline=None)
@given(events, st.integers(1, 5))
def test_histories_equal_a_search_through_all_rows(
    rows: list[tuple[int, int, bool]], max_length: int
) -> None:
    found = earlier_rows(
        np.array([u for u, _, _ in rows], np.int64),
        np.array([t for _, t, _ in rows], np.float64),
        np.array([k for _, _, k in rows], np.bool_),
        max_length,
    )
    assert as_lists(found) == brute_force(rows, max_length)


@settings(deadline=None)
@given(events)
def test_later_rows_change_no_history(rows: list[tuple[int, int, bool]]) -> None:
    users = np.array([u for u, _, _ in rows], np.int64)
    times = np.array([t for _, t, _ in rows], np.float64)
    kept = np.array([k for _, _, k in rows], np.bool_)
    whole = as_lists(earlier_rows(users, times, kept, 9))
    for now in range(7):
        until = times <= now
        before = np.flatnonzero(until)
        cut = as_lists(earlier_rows(users[until], times[until], kept[until], 9))
        assert [[int(before[i]) for i in row] for row in cut] == [whole[i] for i in before]
