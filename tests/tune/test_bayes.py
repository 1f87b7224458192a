"""The Bayesian search finds the top, repeats itself, keeps its budget, and says what it needs."""

from __future__ import annotations

import logging
import logging.handlers
import sys

import numpy as np
import pytest
from tests.tune.worlds import World, both_hills, hill

from headway.core import MissingDependencyError, Plan, UsageError
from headway.tune import BayesSettings, Budget, Space, bayes, exhaustive

SPACE = Space(
    split_size=(16, 32, 64, 128, 256),
    batch_candidates=(0, 128),
    workers=(2, 4),
    offload_candidates=(0, 64, 128, 256),
)
START = Plan(workers=2, split_size=16, accelerators=1)
FOLLOWS = Plan(workers=2, split_size=256, accelerators=1, policy="adaptive")


def fleet(plan: Plan) -> float:
    """One top: fixed, split 64, no batches, four workers, offloading from 128."""
    if plan.policy == "adaptive":
        return 700.0 + 50 * plan.workers - 100 * plan.refuse_late
    return both_hills(64, 128)(plan) + 50 * plan.workers - plan.batch_candidates


def search(world: World, seed: int = 0, plans: int = 30, space: Space = SPACE) -> Plan:
    settings = BayesSettings(space=space, plans=plans)
    found = bayes(world.trials(), [START, FOLLOWS], settings, np.random.default_rng(seed))
    assert found.best is not None
    assert found.meets
    return found.best.plan


@pytest.mark.parametrize("seed", range(3))
def test_the_top_is_found_with_a_fraction_of_the_evaluations(seed: int) -> None:
    world = World(fleet)
    best = search(world, seed)
    assert len(world.asked) <= 32, "of 84 plans in the space"
    assert fleet(best) >= 0.95 * 1700


def test_equal_seeds_are_equal_searches_and_another_seed_differs() -> None:
    def asked(seed: int) -> list[Plan]:
        world = World(fleet)
        search(world, seed, plans=12)
        return world.asked

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_warm_starts_are_tried_first_and_never_lost() -> None:
    known = Plan(workers=3, split_size=77, accelerators=1)
    world = World(lambda p: 900.0 if p.split_size == 77 else 10.0)
    settings = BayesSettings(space=SPACE, plans=4)
    found = bayes(world.trials(), [START, known], settings, np.random.default_rng(0))
    assert world.asked[:2] == [START, known]
    assert found.best is not None
    assert found.best.plan == known


def test_a_budget_ends_the_search_with_the_best_so_far() -> None:
    world = World(fleet)
    settings = BayesSettings(space=SPACE)
    trials = world.trials(Budget(evaluations=5))
    found = bayes(trials, [START, FOLLOWS], settings, np.random.default_rng(0))
    assert len(world.asked) == 5
    assert "stopped after 5 plans" in found.note
    assert found.best is not None
    assert fleet(found.best.plan) == max(fleet(plan) for plan in world.asked)


def test_a_budget_spent_before_the_starts_leaves_no_answer() -> None:
    trials = World(fleet).trials(Budget(evaluations=1))
    trials.of(Plan(threads=2))
    found = bayes(trials, [START], BayesSettings(space=SPACE), np.random.default_rng(0))
    assert found.best is None
    assert found.note


def test_a_small_space_is_tried_whole_and_no_plan_twice() -> None:
    space = Space(split_size=(16, 32, 64), batch_candidates=(0,))
    world = World(hill(64))
    settings = BayesSettings(space=space)
    bayes(world.trials(), [Plan(split_size=16)], settings, np.random.default_rng(0))
    assert len(world.asked) == len(set(world.asked)) == 5
    assert {p.split_size for p in world.asked if p.policy == "fixed"} == {16, 32, 64}
    adaptive = [p for p in world.asked if p.policy == "adaptive"]
    assert [p.split_size for p in adaptive] == [64, 64], "the bound that binds least"
    assert {p.refuse_late for p in adaptive} == {False, True}


def test_what_the_account_knows_costs_nothing_and_counts() -> None:
    world = World(hill(64))
    trials = world.trials()
    exhaustive(trials, Plan(), (16, 32, 64, 128))
    space = Space(policy=("fixed",), split_size=(16, 32, 64, 128), batch_candidates=(0,))
    settings = BayesSettings(space=space)
    found = bayes(trials, [Plan(split_size=16)], settings, np.random.default_rng(0))
    assert len(world.asked) == 4
    assert found.best is not None
    assert found.best.plan.split_size == 64


def test_among_equal_throughputs_the_tail_decides() -> None:
    world = World(lambda _: 500.0, lambda p: 50.0 if p.policy == "fixed" else 5.0)
    assert search(world, plans=4).policy == "adaptive"


def test_the_library_says_nothing_and_keeps_its_level() -> None:
    import optuna

    logger, level = logging.getLogger("optuna"), optuna.logging.get_verbosity()
    handler = logging.handlers.BufferingHandler(capacity=100)
    logger.addHandler(handler)
    try:
        search(World(fleet), plans=2)
    finally:
        logger.removeHandler(handler)
    assert not handler.buffer
    assert optuna.logging.get_verbosity() == level


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    world = World(fleet)
    with pytest.raises(MissingDependencyError, match=r"'optuna'.*headway\[optimize\]"):
        search(world)
    assert not world.asked


def test_a_search_that_cannot_be_made_is_refused() -> None:
    trials, rng = World(fleet).trials(), np.random.default_rng(0)
    with pytest.raises(UsageError, match="plan to start from"):
        bayes(trials, [], BayesSettings(), rng)
    with pytest.raises(UsageError, match="no accelerator"):
        bayes(trials, [Plan()], BayesSettings(space=SPACE), rng)
