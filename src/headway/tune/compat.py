"""DeepRecSched as its public code does it, for comparison: order, stop rule, control, one bug."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import Plan, UsageError
from headway.tune.climb import climb, fixed
from headway.tune.trials import Found, Trial, Trials, choose

COMPAT_SPLITS = (512, 384, 256, 192, 128, 96, 64, 48, 32)
COMPAT_THRESHOLDS = (96, 128, 192, 256, 384, 512)
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


def compat_climb(
    trials: Trials,
    start: Plan,
    *,
    splits: Sequence[int] = COMPAT_SPLITS,
    thresholds: Sequence[int] = COMPAT_THRESHOLDS,
    first_threshold_misbooked: bool = False,
) -> Found:
    """Tune as the code released with DeepRecSys does, which differs from its paper.

    Split sizes are tried downward with nothing offloaded, then, with accelerators, thresholds
    upward; each list ends at the first fall below the candidate before. The released code
    measures the first threshold with offloading still off, and books that as the threshold's.

    Args:
        trials: evaluates the steps.
        start: all else of the plan; its policy is set to ``fixed``, without batches.
        splits: in the order tried.
        thresholds: in the order tried.
        first_threshold_misbooked: repeat that mistake; the answer's score may then be that of
            another plan.

    Raises:
        UsageError: if there is no split size, or with accelerators no threshold.
    """
    if not splits or (start.accelerators and not thresholds):
        raise UsageError("a climb needs at least one split size, and one threshold to offload")
    plan = fixed(start)
    first = climb(trials, [msgspec.structs.replace(plan, split_size=n) for n in splits], "split")
    if first.top is None or first.note or not plan.accelerators:
        return Found(best=first.top, trials=first.steps, note=first.note)
    tuned = first.top
    offloading = [msgspec.structs.replace(tuned.plan, offload_candidates=n) for n in thresholds]
    if not first_threshold_misbooked:
        second = climb(trials, offloading, "offload")
        return Found(
            best=choose(second.steps) or tuned,
            trials=first.steps + second.steps,
            note=second.note,
        )
    second = climb(trials, [tuned.plan, *offloading[1:]], "offload")
    booked = Trial(plan=offloading[0], score=tuned.score, purpose="misbooked")
    steps = (booked, *second.steps[1:])
    return Found(best=choose(steps), trials=first.steps + steps, note=second.note)


class Ladder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the released code looks for the rate that a candidate bears.

    Attributes:
        rungs: mean gaps between arrivals, spaced evenly in their logarithm.
        shortest_ms: gap of the highest rung.
        longest_ms: gap of the lowest rung, where the control begins.
        updates: steps in all.
        kept: the last steps, whose median is the answer.
        slack: one rung faster only below the target over ``1 + slack``.
        percentile: of latency, held against the target.
    """

    rungs: Annotated[int, Meta(ge=2)] = 50
    shortest_ms: Positive = 1.0
    longest_ms: Positive = 20.0
    updates: Count = 128
    kept: Count = 50
    slack: Annotated[float, Meta(ge=0)] = 0.1
    percentile: Annotated[float, Meta(gt=0, lt=100)] = 95.0


RELEASED = Ladder()


def ladder_qps(
    respond: Callable[[float], NDArray[Any]],
    target_ms: float,
    settings: Ladder = RELEASED,
) -> float:
    """Return the rate in queries/s around which the control of the released code settles.

    After every 64 answered queries, their p95 (about three of them lie above it) moves the mean
    gap one rung: slower if over the target, faster if well under it, else not at all. The answer
    is a median of rungs and was not verified by a run, so it is noisy; ``measure.find_lbt`` is
    what Headway believes.

    Args:
        respond: offers queries with this mean gap in milliseconds until the next 64 (or however
            many it takes) are answered, and returns their latencies in milliseconds.
        target_ms: of the percentile.
        settings: the ladder.
    """
    gaps = np.geomspace(settings.longest_ms, settings.shortest_ms, settings.rungs)
    place = 0
    visited: list[int] = []
    for _ in range(settings.updates):
        tail = float(np.percentile(respond(float(gaps[place])), settings.percentile))
        if tail > target_ms:
            place = max(0, place - 1)
        elif tail < target_ms / (1 + settings.slack):
            place = min(settings.rungs - 1, place + 1)
        visited.append(place)
    return float(1000 / np.median(gaps[visited[-settings.kept :]]))
