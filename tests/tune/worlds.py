"""Machines whose throughput is a formula of the plan."""

from __future__ import annotations

from collections.abc import Callable
from math import log2

import numpy as np

from headway.core import ManualClock, Plan, from_seconds
from headway.tune import Budget, Evaluate, Score, Trials

NO_LIMIT = Budget()


class World:
    """Counts what it is asked; each answer takes ten seconds of its clock."""

    def __init__(
        self, qps: Callable[[Plan], float], tail_ms: Callable[[Plan], float] | None = None
    ):
        self.clock = ManualClock()
        self.asked: list[Plan] = []
        self._qps, self._tail_ms = qps, tail_ms

    def __call__(self, plan: Plan) -> Score:
        self.asked.append(plan)
        self.clock.advance(from_seconds(10))
        tail = None if self._tail_ms is None else self._tail_ms(plan)
        return Score(lbt_qps=max(0.0, self._qps(plan)), half_tail_ms=tail, cost_s=10.0)

    def trials(self, budget: Budget = NO_LIMIT) -> Trials:
        evaluate: Evaluate = self
        return Trials(evaluate, self.clock, budget)


def hill(top: int, height: float = 1000.0) -> Callable[[Plan], float]:
    """One top over the split size, falling by the doublings away from it."""
    return lambda plan: height - 100 * abs(log2(plan.split_size) - log2(top))


def both_hills(split: int, threshold: int) -> Callable[[Plan], float]:
    """A hill over the split size; offloading adds another over the threshold."""

    def qps(plan: Plan) -> float:
        base = hill(split)(plan)
        if not plan.offload_candidates:
            return base
        return base + 500 - 120 * abs(log2(plan.offload_candidates) - log2(threshold))

    return qps


def noisy(qps: Callable[[Plan], float], share: float, seed: int) -> Callable[[Plan], float]:
    rng = np.random.default_rng(seed)
    return lambda plan: qps(plan) * (1 + share * rng.standard_normal())
