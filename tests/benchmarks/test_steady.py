"""A run counts by what the host did meanwhile, not by what it gave."""

from __future__ import annotations

from itertools import chain, count, repeat

from benchmarks.steady import TRIES, Steady


def test_a_run_in_which_the_host_stopped_a_core_is_done_again() -> None:
    stalled = iter([5.0, 5.01, 5.01, 5.011])
    steady = Steady(lambda: next(stalled))
    runs = iter(["first", "second"])
    assert steady.through(lambda: next(runs)) == "second"
    assert (steady.kept, steady.discarded, steady.unsteady) == (1, 1, 0)


def test_of_a_host_that_never_rests_the_last_run_counts_and_is_told_apart() -> None:
    stalled = count(0.0, 0.1)
    steady = Steady(lambda: next(stalled))
    runs = iter(range(2 * TRIES))
    assert [steady.through(lambda: next(runs)) for _ in range(2)] == [TRIES - 1, 2 * TRIES - 1]
    assert (steady.kept, steady.discarded, steady.unsteady) == (0, 2 * TRIES - 2, 2)


def test_a_run_without_a_stall_counts_at_once() -> None:
    stalled = chain([3.0, 3.001], repeat(3.1))
    steady = Steady(lambda: next(stalled))
    assert steady.through(lambda: "run") == "run"
    assert (steady.kept, steady.discarded, steady.unsteady) == (1, 0, 0)
