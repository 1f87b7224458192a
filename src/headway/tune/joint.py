"""All of a plan at once: walks along one setting at a time, from several starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import Plan, UsageError, check_fields
from headway.tune.trials import Found, Trial, Trials, choose

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
_SPLITS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be set to what; neighbours in a list are steps of a walk.

    A plan's own value may lie outside, and is then left for the nearest one inside.
    """

    policy: Annotated[tuple[Literal["fixed", "adaptive"], ...], Meta(min_length=1)] = (
        "fixed",
        "adaptive",
    )
    split_size: Annotated[tuple[Positive, ...], Meta(min_length=1)] = _SPLITS
    batch_candidates: Annotated[tuple[NotNegative, ...], Meta(min_length=1)] = (0, 128, 256, 512)
    workers: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (1,)
    offload_candidates: Annotated[tuple[NotNegative, ...], Meta(min_length=1)] = (0,)
    refuse_late: Annotated[tuple[bool, ...], Meta(min_length=1)] = (False, True)

    def __post_init__(self) -> None:
        """Refuse lists that are empty or out of order.

        Raises:
            UsageError: naming the list.
        """
        check_fields(self)
        for name in ("split_size", "batch_candidates", "workers", "offload_candidates"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise UsageError(f"space.{name} must rise: {list(values)}")


class JointSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far and how boldly to search.

    Attributes:
        space: the values there are.
        restarts: further walks, every second one from a plan drawn anew as a whole.
        drawn: settings drawn anew for the others, which begin near the best plan.
        tolerance: relative difference of throughputs that means nothing; within it the tail at
            half load decides.
    """

    space: Space = Space()
    restarts: Annotated[int, Meta(ge=0)] = 8
    drawn: Positive = 3
    tolerance: Annotated[float, Meta(ge=0, lt=1)] = 0.02


def joint(
    trials: Trials, starts: Sequence[Plan], settings: JointSettings, rng: np.random.Generator
) -> Found:
    """Search policy, split, batches, workers, offloading and refusing together.

    All starts are tried, and under each policy a walk begins at the best: settings in a drawn
    order are moved one step up or down as long as that is better, until no single step is.
    Further walks begin elsewhere, since settings depend on each other and single steps cannot
    cross a valley. Equal seeds and scores, equal walks.

    Args:
        trials: evaluates; also what ends the search before its restarts are used up.
        starts: plans known to be good, perhaps from a simulator; everything that the space does
            not name stays as in them.
        settings: the space and the effort.
        rng: draws orders and restarts.

    Raises:
        UsageError: without a start, or if the space offloads where no start has accelerators.
    """
    check_starts(starts, settings.space)
    return _Walks(trials, settings, rng).run(starts)


class _Walks:
    """The walks of one search and what they have seen."""

    def __init__(self, trials: Trials, settings: JointSettings, rng: np.random.Generator) -> None:
        self._trials = trials
        self._settings = settings
        self._rng = rng
        self._seen: dict[Plan, Trial] = {}

    def run(self, starts: Sequence[Plan]) -> Found:
        for plan in starts:
            self._try(canonical(plan), "start")
        best = self._best()
        if best is not None:
            for policy in self._settings.space.policy:
                begun = self._try(canonical(_with(best.plan, {"policy": policy})), "start")
                if begun is not None:
                    self._walk(begun)
        for restart in range(self._settings.restarts):
            best = self._best()
            if best is None or self._trials.spent:
                break
            # From anywhere and from near the best, in turns: the best may be a lesser hill.
            count = self._settings.drawn if restart % 2 else None
            drawn = self._try(self._jump(best.plan, count), "restart")
            if drawn is not None:
                self._walk(drawn)
        return Found(best=self._best(), trials=tuple(self._seen.values()), note=self._trials.spent)

    def _walk(self, at: Trial) -> None:
        """Go on as long as one step of one setting is better."""
        # Better within a tolerance is no order: without this a walk could go round in circles.
        been = {at.plan}
        moved = True
        while moved:
            moved = False
            # Not the policy: what the other settings are worth depends on it altogether.
            for name in (n for n in self._order() if n != "policy"):
                better = self._along(at, name, been)
                if better is not None:
                    at, moved = better, True
                    been.add(at.plan)

    def _along(self, at: Trial, name: str, been: set[Plan]) -> Trial | None:
        """Return the first better plan beside this one along a setting, if there is one."""
        for plan in self._neighbours(at.plan, name):
            trial = None if plan in been else self._try(plan, name)
            if trial is not None and self._is_better(trial, at):
                return trial
        return None

    def _neighbours(self, plan: Plan, name: str) -> Iterator[Plan]:
        values = getattr(self._settings.space, name)
        place = _place(values, getattr(plan, name))
        # A value from outside the space is itself no step away from the nearest inside.
        steps = (0,) if values[place] != getattr(plan, name) else (1, -1)
        for step in steps:
            if 0 <= place + step < len(values):
                beside = canonical(_with(plan, {name: values[place + step]}))
                if beside != plan:
                    yield beside

    def _jump(self, plan: Plan, count: int | None) -> Plan:
        """Draw so many settings anew, or all."""
        space = self._settings.space
        names = self._order()[:count]
        changes = {n: self._drawn(getattr(space, n)) for n in names}
        return canonical(_with(plan, changes))

    def _drawn(self, values: Sequence[Any]) -> Any:
        return values[int(self._rng.integers(len(values)))]

    def _order(self) -> list[str]:
        """Return the settings that have a choice, in a drawn order."""
        names = [n for n in Space.__struct_fields__ if len(getattr(self._settings.space, n)) > 1]
        return [names[i] for i in self._rng.permutation(len(names))]

    def _try(self, plan: Plan, purpose: str) -> Trial | None:
        trial = self._trials.of(plan, purpose)
        if trial is not None:
            self._seen.setdefault(plan, trial)
        return trial

    def _is_better(self, new: Trial, old: Trial) -> bool:
        return choose((old, new), self._settings.tolerance) is new

    def _best(self) -> Trial | None:
        return choose(tuple(self._seen.values()), self._settings.tolerance)


def check_starts(starts: Sequence[Plan], space: Space) -> None:
    """Refuse starts that a joint search over this space cannot begin from.

    Raises:
        UsageError: without a start, or if the space offloads where no start has accelerators.
    """
    if not starts:
        raise UsageError("a joint search needs at least one plan to start from")
    if any(space.offload_candidates) and not starts[0].accelerators:
        raise UsageError("space.offload_candidates offloads, but the plans have no accelerator")


def canonical(plan: Plan) -> Plan:
    """Return a plan without settings that its policy does not look at, so that equals are equal."""
    if plan.policy == "adaptive":
        return _with(plan, {"batch_candidates": 0, "offload_candidates": 0})
    return _with(plan, {"refuse_late": True})


def _with(plan: Plan, changes: dict[str, Any]) -> Plan:
    return msgspec.structs.replace(plan, **changes)


def _place(values: Sequence[Any], value: Any) -> int:
    """Return where the nearest value stands."""
    if value in values:
        return list(values).index(value)
    if isinstance(value, str):
        return 0
    return min(range(len(values)), key=lambda i: abs(values[i] - value))
