"""The measured schedulers: what is refused is infinitely late, and compared as such."""

from __future__ import annotations

from importlib import import_module
from math import inf
from typing import Any

import numpy as np
import pytest

# By their names: beside each other they import as scripts do.
measured, scheduling = import_module("measured"), import_module("scheduling")


def turn(seed: int, refused: float) -> dict[str, Any]:
    """A turn in which one plan answers all and the other refuses a part."""
    rng = np.random.default_rng(seed)
    answered = rng.uniform(1e6, 5e6, 200)
    partly = np.where(rng.random(200) < refused, inf, answered / 2)
    sent = np.arange(200)
    return {
        "deeprecsched": measured.Met(answered, 0, sent),
        "headway": measured.Met(partly, 0, sent),
    }


def test_a_plan_that_answers_in_half_the_time_has_half_the_tail() -> None:
    told = scheduling.tails([turn(seed, 0.0) for seed in range(6)])
    assert told["ratio"] == pytest.approx([0.5] * 3)
    assert told["low"] == told["high"] == told["ratio"]


def test_the_tail_of_a_plan_that_refuses_too_many_is_infinite() -> None:
    told = scheduling.tails([turn(seed, 0.2) for seed in range(6)])
    assert told["ratio"][1] == told["low"][1] == told["high"][1] == inf
    assert told["ratio"][0] < 1
