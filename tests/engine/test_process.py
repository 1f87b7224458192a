"""A runner in its own process: its errors arrive, its end is noticed, nothing stays behind."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from headway.core import HeadwayError, Query, QueryError
from headway.engine import process as wire
from headway.engine import raw_outputs
from headway.engine.process import ProcessRunner

HERE = "tests.engine.echo_runner"


def query(values: list[float]) -> Query:
    column = np.array(values, np.float32)[:, None]
    return Query("", {"bias": np.ones((1, 1), np.float32)}, {"value": column}, len(values))


def test_error_of_a_call_is_raised_here_and_the_next_call_works() -> None:
    runner = ProcessRunner(factory=f"{HERE}:make")
    try:
        with pytest.raises(HeadwayError, match=f"{HERE}:make: a value is negative"):
            raw_outputs(runner, [query([-1.0])], 1)
        (found,) = raw_outputs(runner, [query([1.0, 2.0])], 1)
        np.testing.assert_array_equal(found, [[2.0], [3.0]])
    finally:
        runner.close()


def test_end_of_the_child_is_noticed() -> None:
    runner = ProcessRunner(factory=f"{HERE}:make")
    runner._child.kill()
    runner._child.wait()
    with pytest.raises(HeadwayError, match="has ended with exit code -9; start a new runner"):
        raw_outputs(runner, [query([1.0])], 1)
    runner.close()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (f"{HERE}:make_broken", "ValueError: no such model: x"),
        ("no.such.module:make", "ModuleNotFoundError"),
        (f"{HERE}:no_such_function", "AttributeError"),
    ],
)
def test_failure_to_start_says_why(factory: str, message: str) -> None:
    with pytest.raises(HeadwayError, match=message):
        ProcessRunner(factory=factory, argument="x")


def test_child_ends_when_the_parent_lets_go() -> None:
    runner = ProcessRunner(factory=f"{HERE}:make")
    runner.close()
    runner.close()
    assert runner._child.returncode == 0


ARRAYS = st.lists(
    st.sampled_from(["<i8", "<f4", "u1"]).flatmap(
        lambda kind: npst.arrays(kind, npst.array_shapes(max_dims=2, min_side=0, max_side=5))
    ),
    max_size=5,
)


@given(ARRAYS)
def test_arrays_arrive_as_they_were_sent(arrays: list[NDArray[Any]]) -> None:
    here, there = socket.socketpair()
    with here, there:
        wire._send(here, wire._Done(), arrays)
        message, found = wire._receive(there)
    assert isinstance(message, wire._Done)
    assert len(found) == len(arrays)
    for sent, got in zip(arrays, found, strict=True):
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)
        assert got.flags.aligned


def test_query_error_in_a_child_is_a_headway_error() -> None:
    assert issubclass(QueryError, HeadwayError)
    assert wire._told(QueryError("as is")) == "as is"
    assert wire._told(ValueError("named")) == "ValueError: named"
