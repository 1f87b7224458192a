"""No plan is evaluated twice, and a budget ends a search with the best so far."""

from __future__ import annotations

import pytest
from tests.tune.worlds import World, hill

from headway.core import Plan
from headway.tune import Budget, Score, Trial, Trials, choose, exhaustive, hill_climb


def trial(qps: float, tail_ms: float | None = None, split: int = 1) -> Trial:
    return Trial(plan=Plan(split_size=split), score=Score(lbt_qps=qps, half_tail_ms=tail_ms))


def test_searches_share_what_they_know() -> None:
    world = World(hill(64))
    trials = world.trials()
    first = hill_climb(trials, Plan(), 1024)
    asked = len(world.asked)
    again = hill_climb(trials, Plan(), 1024)
    assert again.best == first.best
    assert len(world.asked) == asked == len(set(world.asked)) == len(trials.all)


@pytest.mark.parametrize(
    ("budget", "plans", "said"),
    [
        (Budget(evaluations=3), 3, "stopped after 3 plans"),
        (Budget(seconds=25.0), 3, "the budget of 25 s is spent"),
        (Budget(evaluations=2, seconds=1000), 2, "stopped after 2 plans"),
    ],
)
def test_a_spent_budget_leaves_the_best_so_far(budget: Budget, plans: int, said: str) -> None:
    world = World(hill(1024))
    found = hill_climb(world.trials(budget), Plan(), 1024)
    assert len(world.asked) == plans
    assert found.best is not None
    assert found.best.plan.split_size == 2 ** (plans - 1)
    assert said in found.note
    assert found.meets


def test_what_is_known_costs_no_budget() -> None:
    world = World(hill(4))
    trials = world.trials(Budget(evaluations=3))
    exhaustive(trials, Plan(), (1, 2, 4))
    found = exhaustive(trials, Plan(), (4, 2, 1))
    assert not found.note
    assert found.best is not None
    assert found.best.plan.split_size == 4


def test_no_plan_within_the_budget_is_no_answer() -> None:
    world = World(hill(4))
    trials = world.trials(Budget(evaluations=1))
    trials.of(Plan(policy="adaptive"))
    found = hill_climb(trials, Plan(), 8)
    assert found.best is None
    assert not found.meets
    assert found.note


def test_progress_is_told_of_each_evaluation_once() -> None:
    world = World(hill(4))
    told: list[Trial] = []
    trials = Trials(world, world.clock, progress=told.append)
    trials.of(Plan(), "first")
    trials.of(Plan(), "second")
    assert [t.purpose for t in told] == ["first"]


def test_the_highest_throughput_is_chosen_and_among_near_equals_the_least_tail() -> None:
    fast, calm, slow = trial(100.0, 9.0), trial(99.0, 3.0), trial(90.0, 1.0)
    assert choose((fast, calm, slow)) is fast
    assert choose((fast, calm, slow), 0.02) is calm
    assert choose((fast, trial(99.5)), 0.02) is fast, "an unknown tail is the worst"
    assert choose(()) is None


def test_the_first_of_equals_is_chosen() -> None:
    first, second = trial(5.0, split=1), trial(5.0, split=2)
    assert choose((first, second)) is first


def test_a_plan_that_never_meets_the_sla_is_no_answer_that_meets() -> None:
    found = hill_climb(World(lambda _: 0.0).trials(), Plan(), 16)
    assert found.best is not None
    assert not found.meets
