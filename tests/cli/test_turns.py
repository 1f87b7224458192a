"""Searches that share a machine take turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headway.cli.turns import Turns, in_turns


def test_jobs_alternate_and_a_longer_one_goes_on_alone() -> None:
    log: list[str] = []

    def make(name: str, steps: int) -> Callable[[Turns], int]:
        def run(turns: Turns) -> int:
            for _ in range(steps):
                with turns.turn(name):
                    log.append(name)
            return steps

        return run

    assert in_turns({"a": make("a", 2), "b": make("b", 4)}) == {"a": 2, "b": 4}
    assert log == ["a", "b", "a", "b", "b", "b"]


def test_a_job_that_fails_does_not_hold_the_others_up() -> None:
    def fails(turns: Turns) -> int:
        with turns.turn("a"):
            raise ValueError("no")

    done: list[int] = []

    def works(turns: Turns) -> int:
        for i in range(3):
            with turns.turn("b"):
                done.append(i)
        return 3

    with pytest.raises(ValueError, match="no"):
        in_turns({"a": fails, "b": works})
    assert done == [0, 1, 2]
