"""The hill climb of DeepRecSched: the split size first, then what goes to the accelerator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from headway.core import Plan, UsageError
from headway.tune.trials import Found, Trial, Trials, choose

LARGEST = 1024


class Climbed(msgspec.Struct, frozen=True, kw_only=True):
    """One climb: its steps, the highest of them, and why it ended before the top, or ""."""

    steps: tuple[Trial, ...]
    note: str = ""

    @property
    def top(self) -> Trial | None:
        """The step with the highest throughput, the first of equals."""
        return choose(self.steps)


def hill_climb(
    trials: Trials, start: Plan, largest: int = LARGEST, *, tolerance: float = 0.0
) -> Found:
    """Tune the split size, then the offload threshold, each upward until throughput first drops.

    The split size begins at one candidate with nothing offloaded and doubles while throughput
    rises. Then, if the plan has accelerators, the threshold begins at one candidate, so that they
    take every query, and rises in half the steps (1, 2, 3, 4, 6, 8 ...), as the released code's
    lists do: a threshold twice too high or low wastes a whole device. Both are unimodal, so that few steps suffice (Gupta et
    al., "DeepRecSys", ISCA 2020, section IV: DeepRecSched). Of both climbs the highest step is
    the answer: nothing is offloaded where that was better.

    Args:
        trials: evaluates the steps.
        start: all else of the plan; its policy is set to ``fixed``, without batches.
        largest: query, candidates; nothing above it is tried.
        tolerance: a fall by less than this share is no drop; 0 as published.

    Raises:
        UsageError: if the largest query has no candidate.
    """
    plan = fixed(start)
    splits = (msgspec.structs.replace(plan, split_size=n) for n in doubling(largest))
    first = climb(trials, splits, "split", tolerance)
    if first.top is None or first.note or not plan.accelerators:
        return Found(best=first.top, trials=first.steps, note=first.note)
    tuned = first.top.plan
    thresholds = (
        msgspec.structs.replace(tuned, offload_candidates=n) for n in half_doubling(largest)
    )
    second = climb(trials, thresholds, "offload", tolerance)
    steps = first.steps + second.steps
    return Found(best=choose(steps), trials=steps, note=second.note)


def climb(trials: Trials, plans: Iterable[Plan], purpose: str, tolerance: float = 0.0) -> Climbed:
    """Try plans in order until the throughput falls for the first time.

    Args:
        trials: evaluates them.
        plans: in order.
        purpose: told of each.
        tolerance: a fall below the highest so far by less than this share is no drop.
    """
    steps: list[Trial] = []
    highest = 0.0
    for plan in plans:
        trial = trials.of(plan, purpose)
        if trial is None:
            return Climbed(steps=tuple(steps), note=trials.spent)
        steps.append(trial)
        if trial.score.lbt_qps < highest * (1 - tolerance):
            break
        highest = max(highest, trial.score.lbt_qps)
    return Climbed(steps=tuple(steps))


def doubling(largest: int) -> Iterator[int]:
    """Yield 1, 2, 4 ... and last ``largest`` itself.

    Raises:
        UsageError: if it is not positive.
    """
    if largest < 1:
        raise UsageError(f"the largest query must have a candidate, not {largest}")
    step = 1
    while step < largest:
        yield step
        step *= 2
    yield largest


def half_doubling(largest: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12 ... and last ``largest`` itself, as ``doubling`` does."""
    for step in doubling(largest):
        yield step
        middle = step + step // 2
        if step < middle < min(largest, 2 * step):
            yield middle


def fixed(plan: Plan) -> Plan:
    """Return the plan as DeepRecSched knows plans: one split size, no batches, no offloading."""
    return msgspec.structs.replace(plan, policy="fixed", batch_candidates=0, offload_candidates=0)
