"""What is measured on a shared host counts by its probes alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import pytest
from benchmarks.steady import FIRST, PATIENCE, TRIES, Steady, slowest


def host(probes: Iterator[float], stolen: Iterator[float] | None = None) -> Steady:
    """A host whose probes at first all take a second."""
    stolen = stolen or repeat(0.0)
    times = chain(repeat(1.0, FIRST), probes)
    return Steady(lambda: next(times), lambda: next(stolen), pause_s=0.0)


def test_a_run_after_which_the_host_is_slow_is_done_again() -> None:
    steady = host(iter([1.0, 1.9, 1.0, 1.0]))
    runs = iter(["first", "second"])
    assert steady.through(lambda: next(runs)) == "second"
    assert (steady.kept, steady.discarded) == (1, 1)


def test_a_run_in_which_the_host_took_a_core_is_done_again() -> None:
    steady = host(repeat(1.0), iter([5.0, 5.01, 5.01, 5.015]))
    runs = iter(["first", "second"])
    assert steady.through(lambda: next(runs)) == "second"
    assert (steady.kept, steady.discarded) == (1, 1)


def test_a_run_waits_for_full_speed() -> None:
    steady = host(iter([1.9, 1.8, 1.1, 1.2]))
    assert steady.through(lambda: "run") == "run"
    assert (steady.kept, steady.discarded) == (1, 0)


def test_a_host_that_never_comes_to_full_speed_runs_nothing() -> None:
    steady = host(repeat(1.9))
    assert steady.through(lambda: pytest.fail("it ran")) is None
    assert steady.missing == 1


def test_a_restless_host_is_given_up_after_some_tries() -> None:
    steady = host(chain.from_iterable(repeat([1.0, 1.9])))
    runs: list[int] = []
    assert steady.through(lambda: runs.append(1)) is None
    assert len(runs) == steady.discarded == TRIES
    assert PATIENCE > TRIES


def test_full_speed_is_that_of_the_fastest_probes_so_far() -> None:
    steady = host(chain(repeat(0.5, 10), [0.9, 0.6]))
    assert all(steady.full() for _ in range(10))
    assert not steady.full()
    assert steady.full()


def test_what_cannot_be_had_steady_happens_once_more_and_is_counted() -> None:
    steady = host(chain(repeat(1.0, 2), repeat(1.9)))
    assert steady.at_last(lambda: "first") == "first"
    assert steady.at_last(lambda: "second") == "second"
    assert (steady.kept, steady.missing, steady.unsteady) == (1, 1, 1)


def test_a_run_that_may_be_unsteady_happens_once_and_is_counted() -> None:
    steady = host(iter([1.9, 1.0]))
    assert [steady.once(lambda: "run") for _ in range(2)] == ["run", "run"]
    assert (steady.kept, steady.unsteady) == (1, 1)


def test_the_pace_of_a_run_is_that_of_the_probes_about_it() -> None:
    steady = host(chain([1.9, 1.2], repeat(1.0)))
    assert steady.through(lambda: "run") == "run"
    assert steady.pace_s == pytest.approx(1.1)


def test_the_slowest_core_is_what_counts() -> None:
    assert slowest([lambda: None, lambda: sum(range(200_000))]) > slowest([lambda: None])
