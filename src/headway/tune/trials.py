"""What a plan is worth, and an account of the plans tried: each once, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Annotated

import msgspec
from msgspec import Meta

from headway.core import Clock, Plan, to_seconds


class Score(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good a plan is.

    Attributes:
        lbt_qps: latency-bounded throughput in queries/s; 0 if no rate meets the SLA.
        confirmed: a run that did not choose the rate met the SLA too.
        half_tail_ms: the SLA's percentile of latency at half the LBT; None if not looked at.
        cost_s: what finding this out took, in seconds of whatever clock it took them from.
    """

    lbt_qps: Annotated[float, Meta(ge=0)]
    confirmed: bool = True
    half_tail_ms: float | None = None
    cost_s: Annotated[float, Meta(ge=0)] = 0.0


Evaluate = Callable[[Plan], Score]
"""Finds out what a plan is worth, on real machines or simulated ones."""


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan that was tried.

    Attributes:
        plan: as it ran.
        score: what it was worth.
        purpose: the step of the search that first asked for it.
    """

    plan: Plan
    score: Score
    purpose: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a search has to stop, if it has not ended before.

    Attributes:
        evaluations: plans evaluated at most; None means any number.
        seconds: no evaluation begins later than this; None means no limit.
    """

    evaluations: Annotated[int, Meta(ge=1)] | None = None
    seconds: Annotated[float, Meta(gt=0)] | None = None


NO_LIMIT = Budget()


class Found(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a search came to.

    Attributes:
        best: its answer; None if not even one plan was tried.
        trials: all plans it asked for, in order, those already known among them.
        note: why it ended early, or "".
    """

    best: Trial | None
    trials: tuple[Trial, ...]
    note: str = ""

    @property
    def meets(self) -> bool:
        """Whether the answer meets the SLA at any rate."""
        return self.best is not None and self.best.score.lbt_qps > 0


class Trials:
    """Evaluates plans, no plan twice, until the budget is spent.

    One account may serve several searches one after the other: what one has tried costs the
    next nothing, and all draw on the same budget.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        clock: Clock,
        budget: Budget = NO_LIMIT,
        progress: Callable[[Trial], None] | None = None,
    ) -> None:
        """Open an account.

        Args:
            evaluate: called once per plan.
            clock: tells when the seconds of the budget are over.
            budget: counts from now.
            progress: told of every evaluation when it has ended.
        """
        self._evaluate = evaluate
        self._clock = clock
        self._budget = budget
        self._progress = progress or (lambda _: None)
        self._known: dict[Plan, Trial] = {}
        self._begun = clock.now()

    def of(self, plan: Plan, purpose: str = "") -> Trial | None:
        """Return what a plan is worth; None if it is not known and the budget is spent."""
        known = self._known.get(plan)
        if known is not None:
            return known
        if self.spent:
            return None
        trial = Trial(plan=plan, score=self._evaluate(plan), purpose=purpose)
        self._known[plan] = trial
        self._progress(trial)
        return trial

    @property
    def spent(self) -> str:
        """Why nothing more will be evaluated, or ""."""
        budget = self._budget
        if budget.evaluations is not None and len(self._known) >= budget.evaluations:
            return f"stopped after {self._count}, all that the budget allows"
        passed = to_seconds(self._clock.now() - self._begun)
        if budget.seconds is not None and passed >= budget.seconds:
            return (
                f"stopped after {passed:.0f} s and {self._count}: the budget of "
                f"{budget.seconds:.3g} s is spent"
            )
        return ""

    @property
    def _count(self) -> str:
        return "1 plan" if len(self._known) == 1 else f"{len(self._known)} plans"

    @property
    def all(self) -> tuple[Trial, ...]:
        """Every plan evaluated, in order."""
        return tuple(self._known.values())


def choose(trials: Sequence[Trial], tolerance: float = 0.0) -> Trial | None:
    """Return the plan with the highest throughput; among near equals, that with the least tail.

    Throughputs of two runs differ by chance, the tail at half load often by a factor; so plans
    within the tolerance of the highest throughput are ordered by that tail. The first of equals
    is taken.

    Args:
        trials: what there is to choose from.
        tolerance: relative difference of throughputs that means nothing.
    """
    if not trials:
        return None
    floor = max(t.score.lbt_qps for t in trials) * (1 - tolerance)
    near = [t for t in trials if t.score.lbt_qps >= floor]
    if tolerance <= 0:
        return near[0]
    return min(near, key=lambda t: (_tail(t.score), -t.score.lbt_qps))


def _tail(score: Score) -> float:
    return inf if score.half_tail_ms is None else score.half_tail_ms
