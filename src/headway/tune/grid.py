"""Every split size with every offload threshold: the honest control of the cleverer searches."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headway.core import Plan, UsageError
from headway.tune.climb import fixed
from headway.tune.trials import Found, Trial, Trials, choose


def exhaustive(
    trials: Trials, start: Plan, splits: Sequence[int], thresholds: Sequence[int] = (0,)
) -> Found:
    """Try all pairs and return the best.

    Args:
        trials: evaluates them.
        start: all else of the plan; its policy is set to ``fixed``, without batches.
        splits: split sizes, candidates.
        thresholds: query sizes from which accelerators take queries; 0 offloads nothing.

    Raises:
        UsageError: if there is nothing to try, or a threshold without an accelerator.
    """
    if not splits or not thresholds:
        raise UsageError("a grid needs at least one split size and one threshold; 0 offloads none")
    tried: list[Trial] = []
    for threshold in thresholds:
        for split in splits:
            plan = msgspec.structs.replace(
                fixed(start), split_size=split, offload_candidates=threshold
            )
            trial = trials.of(plan, "grid")
            if trial is None:
                return Found(best=choose(tried), trials=tuple(tried), note=trials.spent)
            tried.append(trial)
    return Found(best=choose(tried), trials=tuple(tried))
