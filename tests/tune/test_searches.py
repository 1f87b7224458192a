"""The searches find the tops of hills, stop where they say, and are repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tune.worlds import World, both_hills, hill, noisy

from headway.core import Plan, UsageError
from headway.tune import (
    COMPAT_SPLITS,
    Budget,
    JointSettings,
    Ladder,
    Space,
    compat_climb,
    exhaustive,
    hill_climb,
    joint,
    ladder_qps,
)

ACCELERATED = Plan(workers=4, accelerators=1)


def splits(world: World) -> list[int]:
    return [p.split_size for p in world.asked]


def thresholds(world: World) -> list[int]:
    return [p.offload_candidates for p in world.asked if p.offload_candidates]


def test_the_climb_goes_up_from_one_and_stops_at_the_first_drop() -> None:
    world = World(hill(32))
    found = hill_climb(world.trials(), Plan(workers=4), 1000)
    assert splits(world) == [1, 2, 4, 8, 16, 32, 64]
    assert found.best is not None
    assert found.best.plan == Plan(workers=4, split_size=32)
    assert not found.note


def test_the_climb_ends_with_the_largest_query() -> None:
    world = World(hill(4096))
    found = hill_climb(world.trials(), Plan(), 1000)
    assert splits(world)[-2:] == [512, 1000]
    assert found.best is not None
    assert found.best.plan.split_size == 1000


def test_the_threshold_is_climbed_after_the_split_and_with_it() -> None:
    world = World(both_hills(64, 16))
    found = hill_climb(world.trials(), ACCELERATED, 1000)
    assert thresholds(world) == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert {p.split_size for p in world.asked if p.offload_candidates} == {64}
    assert found.best is not None
    assert (found.best.plan.split_size, found.best.plan.offload_candidates) == (64, 16)


def test_nothing_is_offloaded_where_that_is_better() -> None:
    def qps(plan: Plan) -> float:
        return hill(16)(plan) / (3 if plan.offload_candidates else 1)

    found = hill_climb(World(qps).trials(), ACCELERATED, 1000)
    assert found.best is not None
    assert found.best.plan.offload_candidates == 0


def test_a_plateau_is_no_drop() -> None:
    def stairs(plan: Plan) -> float:
        return 0.0 if plan.split_size < 8 else hill(128)(plan)

    found = hill_climb(World(stairs).trials(), Plan(), 1000)
    assert found.best is not None
    assert found.best.plan.split_size == 128


def test_a_first_dip_ends_the_published_climb_and_not_a_tolerant_one() -> None:
    def dented(plan: Plan) -> float:
        return hill(128)(plan) * (0.8 if plan.split_size == 16 else 1.0)

    published = hill_climb(World(dented).trials(), Plan(), 1000)
    tolerant = hill_climb(World(dented).trials(), Plan(), 1000, tolerance=0.2)
    assert published.best is not None
    assert published.best.plan.split_size == 8
    assert tolerant.best is not None
    assert tolerant.best.plan.split_size == 128


@given(top=st.sampled_from([2**i for i in range(11)]))
@settings(max_examples=20, deadline=None)
def test_a_single_top_is_found_wherever_it_is(top: int) -> None:
    world = World(hill(top))
    climbed = hill_climb(world.trials(), Plan(), 1024)
    full = exhaustive(World(hill(top)).trials(), Plan(), [2**i for i in range(11)])
    assert climbed.best is not None
    assert full.best is not None
    assert climbed.best.plan.split_size == full.best.plan.split_size == top
    assert len(world.asked) <= 11


def test_the_released_climb_goes_down_and_stops_below_the_one_before() -> None:
    world = World(hill(192))
    found = compat_climb(world.trials(), Plan())
    assert splits(world) == [512, 384, 256, 192, 128]
    assert found.best is not None
    assert found.best.plan.split_size == 192
    assert COMPAT_SPLITS[-1] == 32


def test_the_released_climb_tries_thresholds_upward() -> None:
    world = World(both_hills(128, 192))
    found = compat_climb(world.trials(), ACCELERATED)
    assert thresholds(world) == [96, 128, 192, 256]
    assert found.best is not None
    assert found.best.plan.offload_candidates == 192


def test_the_released_mistake_books_no_offloading_as_the_first_threshold() -> None:
    def qps(plan: Plan) -> float:
        return hill(128)(plan) - plan.offload_candidates

    world = World(qps)
    found = compat_climb(world.trials(), ACCELERATED, first_threshold_misbooked=True)
    assert thresholds(world) == [128], "96 is never tried"
    assert found.best is not None
    assert found.best.plan.offload_candidates == 96
    assert found.best.purpose == "misbooked"
    assert found.best.score.lbt_qps == qps(Plan(split_size=128))


def test_the_ladder_settles_where_the_tail_meets_the_target() -> None:
    rng = np.random.default_rng(0)

    def respond(gap_ms: float) -> np.ndarray:
        # A single server of 2 ms at this gap: waits grow as the gap nears it.
        load = min(0.99, 2.0 / gap_ms)
        return np.asarray(rng.exponential(2.0 / (1 - load), 64))

    rate = ladder_qps(respond, 25.0)
    assert 200 < rate < 450
    assert ladder_qps(lambda _: np.zeros(64), 25.0) == pytest.approx(1000)
    slow = Ladder(longest_ms=40.0)
    assert ladder_qps(lambda _: np.full(64, 1e3), 25.0, slow) == pytest.approx(25)


def test_between_target_and_slack_the_ladder_holds() -> None:
    gaps: list[float] = []

    def respond(gap_ms: float) -> np.ndarray:
        gaps.append(gap_ms)
        return np.full(64, 24.0)

    ladder_qps(respond, 25.0)
    assert set(gaps) == {20.0}


def test_the_grid_tries_every_pair() -> None:
    world = World(both_hills(64, 256))
    found = exhaustive(world.trials(), ACCELERATED, (32, 64, 128), (0, 128, 256))
    assert len(world.asked) == 9
    assert found.best is not None
    assert (found.best.plan.split_size, found.best.plan.offload_candidates) == (64, 256)


SPACE = Space(workers=(1, 2, 4), offload_candidates=(0, 64, 128, 256, 512))


def ridge(plan: Plan) -> float:
    """The best batch depends on the split size."""
    gap = abs(np.log2(plan.split_size) - np.log2(max(plan.batch_candidates, 16)))
    high = 100 * np.log2(plan.split_size) - 90 * gap + 40 * plan.workers
    return float(high + (300 if plan.policy == "fixed" else 500))


def test_the_joint_search_leaves_its_start_far_below() -> None:
    world = World(ridge)
    start = Plan(workers=1, split_size=16, policy="fixed", accelerators=1)
    found = joint(world.trials(), [start], JointSettings(space=SPACE), np.random.default_rng(0))
    assert found.best is not None
    assert found.best.score.lbt_qps > ridge(start) + 500
    assert found.best.plan.workers == 4
    assert len(world.asked) == len(set(world.asked))


def test_the_joint_search_repeats_itself_and_another_seed_differs() -> None:
    start = Plan(workers=1, accelerators=1)

    def asked(seed: int) -> list[Plan]:
        world = World(ridge)
        joint(world.trials(), [start], JointSettings(space=SPACE), np.random.default_rng(seed))
        return world.asked

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


@pytest.mark.parametrize("seed", range(5))
def test_noise_costs_the_joint_search_little(seed: int) -> None:
    world = World(noisy(ridge, 0.01, seed))
    start = Plan(workers=1, split_size=16, accelerators=1)
    rng = np.random.default_rng(seed)
    found = joint(world.trials(), [start], JointSettings(space=SPACE), rng)
    assert found.best is not None
    best = max(ridge(p) for p in world.asked)
    assert ridge(found.best.plan) >= 0.93 * best


def test_a_warm_start_is_never_lost() -> None:
    world = World(lambda p: 900.0 if p.split_size == 77 else 10.0)
    known = Plan(workers=4, split_size=77)
    found = joint(world.trials(), [Plan(), known], JointSettings(), np.random.default_rng(0))
    assert found.best is not None
    assert found.best.plan == known


def test_among_equal_throughputs_the_joint_search_goes_for_the_tail() -> None:
    world = World(lambda _: 500.0, lambda p: 50.0 if p.policy == "fixed" else 5.0)
    found = joint(world.trials(), [Plan()], JointSettings(), np.random.default_rng(0))
    assert found.best is not None
    assert found.best.plan.policy == "adaptive"


def test_what_a_policy_does_not_look_at_is_not_tried_apart() -> None:
    world = World(lambda _: 1.0)
    joint(world.trials(), [Plan()], JointSettings(restarts=20), np.random.default_rng(0))
    assert all(p.batch_candidates == 0 for p in world.asked if p.policy == "adaptive")
    assert all(p.refuse_late for p in world.asked if p.policy == "fixed")


def test_circles_of_near_equals_end() -> None:
    places = {16: (100.0, 10.0), 32: (98.5, 9.0), 48: (97.2, 8.0)}
    world = World(lambda p: places[p.split_size][0], lambda p: places[p.split_size][1])
    space = Space(policy=("fixed",), split_size=(16, 32, 48), batch_candidates=(0,))
    chosen = JointSettings(space=space, restarts=0)
    found = joint(world.trials(), [Plan(split_size=16)], chosen, np.random.default_rng(0))
    assert found.best is not None
    assert found.best.plan.split_size == 32


def test_a_budget_ends_the_joint_search() -> None:
    world = World(ridge)
    trials = world.trials(Budget(evaluations=5))
    start = Plan(workers=1, accelerators=1)
    found = joint(trials, [start], JointSettings(space=SPACE), np.random.default_rng(0))
    assert len(world.asked) == 5
    assert "stopped after 5 plans" in found.note
    assert found.best is not None


def test_searches_that_cannot_be_made_are_refused() -> None:
    trials, rng = World(hill(1)).trials(), np.random.default_rng(0)
    with pytest.raises(UsageError, match="largest query must have a candidate, not 0"):
        hill_climb(trials, Plan(), 0)
    with pytest.raises(UsageError, match="at least one split size"):
        compat_climb(trials, Plan(), splits=())
    with pytest.raises(UsageError, match="one threshold"):
        compat_climb(trials, ACCELERATED, thresholds=())
    with pytest.raises(UsageError, match="grid needs"):
        exhaustive(trials, Plan(), ())
    with pytest.raises(UsageError, match="no accelerator"):
        exhaustive(trials, Plan(), (1,), (64,))
    with pytest.raises(UsageError, match="plan to start from"):
        joint(trials, [], JointSettings(), rng)
    with pytest.raises(UsageError, match="no accelerator"):
        joint(trials, [Plan()], JointSettings(space=SPACE), rng)
    with pytest.raises(UsageError, match="split_size must rise"):
        Space(split_size=(4, 2))
    with pytest.raises(UsageError, match="workers"):
        Space(workers=(0,))
    assert not trials.all
