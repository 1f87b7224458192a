"""What this machine can do at best: sigmoids and hyperbolic tangents per second."""

from __future__ import annotations

import numpy as np

from headway.bundle import Map, Program, Steps
from headway.core import Clock
from headway.engine.probe import least_ns
from headway.engine.program import ProgramEngine

_ROWS, _WIDTH = 256, 256
"""So many that the call itself hardly counts, and so few that a core's own cache holds them."""


def curves_per_s(clock: Clock, *, seconds: float = 0.1) -> float:
    """Return the rate of sigmoids in Headway's own engine on one thread.

    They are work that no product accounts for: a recurrent layer has as many as it has values,
    and next to products in int8 they may take longer.

    Args:
        clock: what tells the time.
        seconds: how long to measure.
    """
    step = Map(result="y", source="embedded", activation="sigmoid")
    steps = Steps(inputs={"embedded": _WIDTH}, outputs={"output": "y"}, steps=(step,))
    call = ProgramEngine(Program(steps)).caller()
    drawn = np.random.default_rng(0).standard_normal((_ROWS, _WIDTH), np.float32)
    taken = least_ns(lambda _: call(["output"], {"embedded": drawn}), clock, seconds)
    return _ROWS * _WIDTH / taken * 1e9
