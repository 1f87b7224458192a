"""Which plans ``headway tune`` tries, by the search that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from headway.cli.tune_report import Search
from headway.core import Plan, UsageError, static_baseline
from headway.tune import (
    BayesSettings,
    JointSettings,
    Space,
    Trial,
    Trials,
    bayes,
    choose,
    exhaustive,
    hill_climb,
    joint,
)

TOLERANCE = 0.02
_GRID = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search came to.

    Attributes:
        static: the static baseline.
        climbed: the answer of DeepRecSched; None if the budget ended before it.
        adaptive: the better of the policies that follow the load; None if none was tried.
        best: of all plans tried.
        note: why the search ended early, or "".
    """

    static: Trial
    climbed: Trial | None
    adaptive: Trial | None
    best: Trial
    note: str


def search_plans(
    trials: Trials, search: Search, start: Plan, largest: int, rng: np.random.Generator
) -> Searched:
    """Try the static baseline, DeepRecSched's climb, and what the search adds.

    Args:
        trials: evaluates.
        search: what is asked for.
        start: all that is not searched; its workers are those of the machine.
        largest: query, candidates.
        rng: of a search over all settings together.

    Raises:
        UsageError: if the budget was spent before a plan was tried.
    """
    split = static_baseline(start.workers, largest).split_size
    base = msgspec.structs.replace(start, policy="fixed", batch_candidates=0, refuse_late=True)
    static = trials.of(msgspec.structs.replace(base, split_size=split), "static")
    if static is None:
        raise UsageError(f"no plan was tried: {trials.spent}; give a larger --budget")
    follows = _adaptive(start, largest) if search in {"adaptive", "joint", "bayes"} else []
    tried = [trial for plan in follows if (trial := trials.of(plan, "adaptive")) is not None]
    climbed = hill_climb(trials, base, largest).best
    if search == "grid":
        splits = [n for n in _GRID if n < largest] + [largest]
        exhaustive(trials, base, splits)
    elif search in {"joint", "bayes"}:
        known = [t.plan for t in (static, climbed) if t is not None] + follows
        space = _space(start, largest)
        if search == "bayes":
            bayes(trials, known, BayesSettings(space=space, tolerance=TOLERANCE), rng)
        else:
            joint(trials, known, JointSettings(space=space, tolerance=TOLERANCE), rng)
    best = choose(trials.all, TOLERANCE)
    assert best is not None, "the static baseline was tried"
    return Searched(static, climbed, choose(tried, TOLERANCE), best, trials.spent)


def _adaptive(start: Plan, largest: int) -> list[Plan]:
    """Return the policy that follows the load, refusing what would be late, and refusing nothing."""
    change = msgspec.structs.replace
    plan = change(start, policy="adaptive", split_size=max(1, largest), batch_candidates=0)
    return [change(plan, refuse_late=refuse) for refuse in (True, False)]


def _space(start: Plan, largest: int) -> Space:
    default = Space()
    policies: tuple[Literal["fixed", "adaptive"], ...] = ("fixed", "adaptive")
    return Space(
        policy=policies,
        split_size=(*(n for n in default.split_size if n < largest), largest),
        workers=tuple(sorted({max(1, start.workers - 1), start.workers})),
    )
