"""The latency-bounded throughput: the highest offered rate at which an SLA holds."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Annotated

import msgspec
from msgspec import Meta

from headway.core import Sla
from headway.measure.latency import LatencySummary, RunRecord, summarize_latency
from headway.measure.sla import SlaVerdict, judge_sla

Evaluate = Callable[[float, int], RunRecord]
"""Runs a fresh schedule of a rate (queries/s) and a seed, and returns what it recorded."""
Positive = Annotated[float, Meta(gt=0)]


class LbtSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to look for the latency-bounded throughput.

    Attributes:
        sla: what must hold.
        start_qps: first rate tried.
        growth: factor from one rate to the next until the SLA changes its answer.
        tolerance: the bracket is narrowed to this relative width.
        lowest_qps: no lower rate is tried.
        highest_qps: no higher rate is tried.
        evaluations: runs at most, the confirming ones among them.
        confirmations: further independent runs that the answer must pass.
        seed: of the first run; every run has its own.
    """

    sla: Sla = Sla()
    start_qps: Positive = 50.0
    growth: Annotated[float, Meta(gt=1)] = 2.0
    tolerance: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    lowest_qps: Positive = 0.1
    highest_qps: Positive = 1e6
    evaluations: Annotated[int, Meta(ge=5)] = 24
    confirmations: Annotated[int, Meta(ge=1)] = 1
    seed: int = 0


class LbtPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the search.

    Attributes:
        rate_qps: offered rate, that of the schedule.
        seed: of the schedule.
        purpose: ``bracket``, ``bisect`` or ``confirm``.
        verdict: whether the SLA held.
        latency: the run in numbers.
    """

    rate_qps: float
    seed: int
    purpose: str
    verdict: SlaVerdict
    latency: LatencySummary


class LbtResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and every run that led to it.

    Attributes:
        lbt_qps: highest confirmed rate in queries/s; 0 if no rate held.
        lbt_cps: the same in candidates/s, from the sizes of the run at that rate.
        confirmed: the answer passed its independent runs.
        points: all runs in the order made; the latency-over-rate curve.
        note: what limits the answer, or "".
    """

    lbt_qps: float
    lbt_cps: float
    confirmed: bool
    points: tuple[LbtPoint, ...]
    note: str = ""


def find_lbt(
    evaluate: Evaluate,
    settings: LbtSettings,
    progress: Callable[[LbtPoint], None] | None = None,
) -> LbtResult:
    """Return the highest rate at which the SLA holds, confirmed by a run that did not choose it.

    Rates grow (or fall) by a factor until the answer changes, then the bracket is halved. One
    run may fail or pass by chance, so latency is not taken to rise strictly with the rate: the
    first rate to miss narrowly is tried twice more, and the answer must pass again with a fresh
    schedule, or steps down until one passes twice. Runs that the generator itself spoilt count
    as failures and say so in their verdict.

    Args:
        evaluate: makes one run; called at most ``settings.evaluations`` times.
        settings: the SLA, the bounds and the budget.
        progress: told of every run when it has ended.
    """
    return _Search(evaluate, settings, progress or (lambda _: None)).run()


class _Search:
    """State of one search: the points made so far and the bracket."""

    def __init__(
        self, evaluate: Evaluate, settings: LbtSettings, progress: Callable[[LbtPoint], None]
    ) -> None:
        self._evaluate = evaluate
        self._settings = settings
        self._progress = progress
        self._points: list[LbtPoint] = []
        self._low = 0.0
        self._high = settings.highest_qps * settings.growth
        self._note = ""

    def run(self) -> LbtResult:
        self._bracket()
        if self._low == 0:
            return self._result(0.0, confirmed=False)
        while self._is_wide() and self._may_search():
            middle = sqrt(self._low * self._high)
            self._move(middle, passed=self._passes(middle, "bisect"))
        return self._confirm()

    def _bracket(self) -> None:
        """Find a rate that passes and a higher one that fails, as far as bounds allow."""
        settings = self._settings
        rate = min(max(settings.start_qps, settings.lowest_qps), settings.highest_qps)
        while self._may_search():
            passed = self._holds(rate)
            self._move(rate, passed=passed)
            if self._low and self._high <= settings.highest_qps:
                return
            if passed and rate == settings.highest_qps:
                self._note = f"the SLA still holds at the highest rate allowed, {rate:g} qps"
                return
            following = rate * settings.growth if passed else rate / settings.growth
            rate = min(following, settings.highest_qps)
            if rate < settings.lowest_qps:
                self._note = f"no rate from {settings.lowest_qps:g} qps up meets the SLA"
                return
        self._note = f"stopped after {len(self._points)} runs without a bracket"

    def _holds(self, rate: float) -> bool:
        """Run once; after a near miss, let two more runs decide.

        Overload is plain in a heap of violations and needs no second look.
        """
        if self._passes(rate, "bracket"):
            return True
        if not self._is_near_miss() or not self._may_search():
            return False
        return self._passes(rate, "bracket") and self._passes(rate, "bracket")

    def _confirm(self) -> LbtResult:
        """Step down until a rate has passed once to be chosen and again to be confirmed."""
        rate, step = self._low, self._settings.tolerance
        passes = 1
        while len(self._points) < self._settings.evaluations:
            if self._passes(rate, "confirm"):
                passes += 1
                if passes > self._settings.confirmations:
                    return self._result(rate, confirmed=True)
            else:
                rate, step, passes = rate * (1 - step), min(0.2, step * 2), 0
        self._note = f"not confirmed within {self._settings.evaluations} runs"
        return self._result(rate if passes else self._best_unbroken(), confirmed=False)

    def _best_unbroken(self) -> float:
        """Return the highest rate that passed below every rate that failed."""
        broken = min(p.rate_qps for p in self._points if not p.verdict.met)
        held = [p.rate_qps for p in self._points if p.verdict.met and p.rate_qps < broken]
        return max(held, default=0.0)

    def _passes(self, rate: float, purpose: str) -> bool:
        if len(self._points) >= self._settings.evaluations:
            return False
        seed = self._settings.seed + len(self._points)
        record = self._evaluate(rate, seed)
        point = LbtPoint(
            rate_qps=rate,
            seed=seed,
            purpose=purpose,
            verdict=judge_sla(record, self._settings.sla),
            latency=summarize_latency(record),
        )
        self._points.append(point)
        self._progress(point)
        return point.verdict.met

    def _is_near_miss(self) -> bool:
        verdict = self._points[-1].verdict
        return bool(verdict.fault) or verdict.low_ms * 1e6 <= self._settings.sla.limit_ns

    def _move(self, rate: float, *, passed: bool) -> None:
        if passed:
            self._low = rate
        else:
            self._high = rate

    def _is_wide(self) -> bool:
        bounded = self._high <= self._settings.highest_qps
        return bounded and self._high > self._low * (1 + self._settings.tolerance)

    def _may_search(self) -> bool:
        """Keep enough runs back to confirm, and to step down once and confirm that."""
        kept = self._settings.confirmations + 2
        return len(self._points) < self._settings.evaluations - kept

    def _result(self, rate: float, *, confirmed: bool) -> LbtResult:
        at_rate = [p for p in self._points if p.rate_qps == rate] or self._points
        last = at_rate[-1].latency
        candidates = last.offered_cps / last.offered_qps
        return LbtResult(
            lbt_qps=rate,
            lbt_cps=rate * candidates,
            confirmed=confirmed,
            points=tuple(self._points),
            note=self._note,
        )
