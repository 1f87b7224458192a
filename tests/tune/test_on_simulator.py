"""The searches on a simulated machine with an accelerator, where throughput has noise and plateaus."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headway.core import ManualClock, Plan, Sla, from_ms
from headway.measure import LbtSettings, RunRecord, find_lbt
from headway.simulate import Machine, simulate
from headway.tune import (
    JointSettings,
    Score,
    Space,
    Trials,
    choose,
    compat_climb,
    exhaustive,
    hill_climb,
    joint,
)
from headway.workload import draw_schedule

LARGEST, QUERIES = 64, 100
MACHINE = Machine(
    cores=4,
    service=((1, 100_000), (64, 1_500_000)),
    accelerators=1,
    accelerator_service=((1, 300_000), (64, 500_000)),
)
START = Plan(workers=4, accelerators=1, service=MACHINE.service)
SETTINGS = LbtSettings(
    sla=Sla(percentile=90.0, limit_ns=from_ms(5)), start_qps=4000.0, growth=1.6, evaluations=6
)


def sizes(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(1, LARGEST + 1, count)


def evaluate(plan: Plan) -> Score:
    def run(rate: float, seed: int) -> RunRecord:
        rng = np.random.default_rng(seed)
        return simulate(MACHINE, plan, draw_schedule(rate, QUERIES / rate, sizes, rng), rng)

    found = find_lbt(run, SETTINGS)
    return Score(lbt_qps=found.lbt_qps, confirmed=found.confirmed)


@pytest.fixture(scope="module")
def known() -> Trials:
    return Trials(evaluate, ManualClock())


SPLITS, THRESHOLDS = (8, 16, 32, 64), (0, 16, 32, 48)


def best_of_grid(known: Trials) -> float:
    found = exhaustive(known, START, SPLITS, THRESHOLDS)
    assert found.best is not None
    assert len(found.trials) == len(SPLITS) * len(THRESHOLDS)
    return found.best.score.lbt_qps


@pytest.mark.slow
def test_the_published_climb_comes_near_the_grid_at_less_cost(known: Trials) -> None:
    top = best_of_grid(known)
    climbed = hill_climb(known, START, LARGEST, tolerance=0.1)
    assert climbed.best is not None
    assert climbed.best.score.lbt_qps >= 0.85 * top
    assert len(climbed.trials) < LARGEST * LARGEST / 100, "of all pairs there are"
    assert climbed.best.plan.offload_candidates > 0, "the accelerator is worth its while here"


@pytest.mark.slow
def test_the_released_climb_finds_a_plan_too(known: Trials) -> None:
    found = compat_climb(known, START, splits=(64, 32, 16, 8), thresholds=(8, 16, 32, 48, 64))
    assert found.best is not None
    without = choose([t for t in found.trials if not t.plan.offload_candidates])
    assert without is not None
    assert found.best.score.lbt_qps > without.score.lbt_qps


@pytest.mark.slow
def test_the_joint_search_is_no_worse_than_its_warm_starts(known: Trials) -> None:
    climbed = hill_climb(known, START, LARGEST, tolerance=0.1)
    assert climbed.best is not None
    space = Space(split_size=SPLITS, batch_candidates=(0, 64), refuse_late=(True,))
    found = joint(
        known,
        [START, climbed.best.plan],
        JointSettings(space=space, restarts=0),
        np.random.default_rng(0),
    )
    assert found.best is not None
    assert found.best.score.lbt_qps >= 0.98 * climbed.best.score.lbt_qps
