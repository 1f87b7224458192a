"""Autoscaling follows the load, each policy in its own way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulate.fleets import SLA, kind

from headway.core import UsageError
from headway.simulate import (
    Autoscale,
    Fixed,
    FleetJob,
    FleetRun,
    FleetSpec,
    Forecast,
    Known,
    Oracle,
    Signals,
    Utilisation,
    run_job,
)
from headway.simulate.scale import Policy
from headway.workload import Steps, Workload

SECOND = 1_000_000_000
ONE_QPS = 300.0
KNOWN = Known(lbt_qps=100.0, ahead_s=6.0, look_s=1.0)
WINDOW_S = 0.4
STEP = Steps(tuple((10 * WINDOW_S, factor) for factor in (1.0, 3.0, 1.0)))


def follow(policy: Policy, rates: list[float], machines: int = 10) -> list[int]:
    """Return what is wanted look by look, if orders are filled at once."""
    scaler = policy.scaler(KNOWN)
    wanted = []
    for look, rate in enumerate(rates):
        busy = min(1.0, rate / (machines * 125))
        signals = Signals(
            rate_qps=rate, utilisation=busy, machines=machines, ready=machines, waiting=0
        )
        wanted.append(scaler.wanted(signals, look * SECOND))
        machines = max(1, wanted[-1])
    return wanted


def test_a_fixed_policy_wants_what_it_is_told_or_what_there_is() -> None:
    assert follow(Fixed(), [0, 5000]) == [10, 10]
    assert follow(Fixed(machines=3), [0, 5000]) == [3, 3]


def test_the_threshold_reckons_as_the_pod_autoscaler_does() -> None:
    policy = Utilisation(target=0.6, tolerance=0.1, stabilise_s=3)
    assert follow(policy, [900]) == [12], "ceil(10 * 0.72 / 0.6)"
    assert follow(policy, [800, 700]) == [10, 10], "within the tolerance nothing changes"
    assert follow(policy, [1500, *[300] * 8]) == [17, 17, 17, 17, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("ready", "busy", "wanted"),
    [
        (10, 1.0, 17),  # no more than what was ordered: 10 of 17 busy are under the target
        (14, 1.0, 24),  # ceil(14 / 0.6)
        (16, 0.7, 17),  # 16 * 0.7 of 17 is within the tolerance
        (0, 0.0, 17),  # all are on their way: nothing is known
        (10, 0.3, 17),  # fewer, but not before the stabilisation is over
    ],
)
def test_machines_on_their_way_are_not_ordered_again(ready: int, busy: float, wanted: int) -> None:
    scaler = Utilisation(target=0.6, tolerance=0.1, stabilise_s=3 if busy else 0).scaler(KNOWN)
    signals = Signals(rate_qps=1.0, utilisation=busy, machines=17, ready=ready, waiting=0)
    assert scaler.wanted(signals, 0) == wanted


def test_a_forecast_follows_the_rate_over_what_a_machine_bears() -> None:
    policy = Forecast(method="ewma", smooth_s=0.5, headroom=0.2, hold_s=0)
    assert follow(policy, [800, *[1600] * 6])[-1] == 20
    assert follow(policy, [800, *[395] * 6])[-1] == 5


def test_holt_orders_ahead_of_a_rising_rate_where_a_mean_lags() -> None:
    rising = [500 + 50.0 * i for i in range(20)]
    ewma, holt = (
        follow(Forecast(method=method, smooth_s=2, hold_s=0), rising) for method in ("ewma", "holt")
    )
    assert ewma[-1] * 80 < rising[-1]
    assert holt[-1] * 80 > rising[-1] + 4 * 50


def test_hysteresis_keeps_machines_that_are_hardly_too_many() -> None:
    policy = Forecast(method="ewma", smooth_s=0.1, headroom=0.2, hysteresis=0.3, hold_s=2)
    assert follow(policy, [800, *[640] * 5]) == [10] * 6
    assert follow(policy, [800, *[470] * 5]) == [10, 10, 10, 6, 6, 6]


def test_nothing_is_given_back_on_the_strength_of_a_first_look() -> None:
    for policy in (Forecast(hold_s=3), Utilisation(stabilise_s=3)):
        assert follow(policy, [10.0] * 6) == [10, 10, 10, 10, 1, 1]


def test_the_reserve_grows_with_the_surprises_that_there_were() -> None:
    steady, jumping = [800.0] * 40, [800.0, 800.0, 800.0, 1600.0] * 10
    plain, covering = (
        Forecast(method="ewma", smooth_s=2, headroom=0.2, cover=cover, hold_s=0)
        for cover in (0, 0.9)
    )
    assert follow(covering, steady) == follow(plain, steady)
    assert min(follow(covering, jumping)[20:]) * 80 >= 1600
    assert max(follow(plain, jumping)[20:]) * 80 < 1600


def test_surprises_are_forgotten_after_the_memory() -> None:
    policy = Forecast(method="ewma", smooth_s=2, cover=0.9, memory_s=10, hysteresis=0, hold_s=0)
    once = [790.0] * 10 + [1600.0] + [790.0] * 30
    assert max(follow(policy, once)[12:20]) > 10
    assert follow(policy, once)[-1] == 10


@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=40))
def test_no_policy_wants_fewer_than_none_whatever_comes(rates: list[float]) -> None:
    for policy in (Utilisation(), Forecast(), Forecast(method="ewma"), Forecast(hold_s=0)):
        assert min(follow(policy, rates)) >= 0
        assert max(follow(policy, rates)) < 10_000_000


def test_what_needs_a_machines_throughput_says_so() -> None:
    for policy in (Forecast(), Oracle()):
        with pytest.raises(UsageError, match=r"autoscale\.lbt_qps"):
            policy.scaler(Known())


def run(policy: Policy, count: int = 4, startup_s: float = WINDOW_S) -> FleetRun:
    """Let a fleet live through a step to three times the rate and back, ten windows each."""
    scale = Autoscale(policy=policy, look_s=WINDOW_S / 2, startup_s=startup_s, least=2, most=30)
    spec = FleetSpec(kinds=(kind(cores=1, count=count),), sla=SLA, autoscale=scale)
    job = FleetJob(
        spec=spec,
        workload=Workload(arrivals=STEP),
        rate_qps=400,
        duration_s=30 * WINDOW_S,
        window_s=WINDOW_S,
        lbt_qps=(ONE_QPS,),
    )
    return run_job(job, seed=3)


@pytest.fixture(scope="module")
def runs() -> dict[str, FleetRun]:
    return {
        "fixed": run(Fixed(), count=2),
        "threshold": run(Utilisation(target=0.6, stabilise_s=3 * WINDOW_S), count=2),
        "forecast": run(Forecast(smooth_s=WINDOW_S, hold_s=2 * WINDOW_S), count=2),
        "oracle": run(Oracle(headroom=0.2), count=2),
    }


@pytest.mark.parametrize("name", ["threshold", "forecast", "oracle"])
def test_machines_follow_a_step_up_and_down(runs: dict[str, FleetRun], name: str) -> None:
    machines = [w.machines for w in runs[name].windows]
    assert machines[8] < 3
    assert max(machines[15:19]) > 4.5
    assert machines[29] < 4
    assert runs[name].violation_s < runs["fixed"].violation_s


def test_a_threshold_lags_behind_the_step_and_the_oracle_does_not(
    runs: dict[str, FleetRun],
) -> None:
    late = [w.start_s / WINDOW_S for w in runs["threshold"].windows if w.missed]
    assert late
    assert 9.9 <= min(late) < 12
    assert not any(w.missed for w in runs["oracle"].windows)


def test_no_policy_is_better_than_the_oracle(runs: dict[str, FleetRun]) -> None:
    oracle = runs["oracle"]
    for run_ in runs.values():
        assert oracle.violation_s <= run_.violation_s
        worse = run_.violations > oracle.violations
        assert worse or run_.machine_hours >= 0.95 * oracle.machine_hours


def test_what_is_removed_drains_and_loses_nothing(runs: dict[str, FleetRun]) -> None:
    shrunk = run(Fixed(machines=2), count=8)
    assert shrunk.failed == shrunk.retried == 0
    assert len(shrunk.latency) == shrunk.queries
    assert shrunk.windows[0].machines > 2.0
    assert shrunk.windows[-1].machines == pytest.approx(2.0)
    assert runs["threshold"].failed == 0


def test_a_new_machine_helps_only_when_it_has_started() -> None:
    slow = run(Utilisation(target=0.6, stabilise_s=3 * WINDOW_S), count=2, startup_s=4 * WINDOW_S)
    machines = [w.machines for w in slow.windows]
    assert machines[13] == pytest.approx(2.0, abs=0.6)
    assert slow.machine_hours * 3600 > sum(machines) * WINDOW_S, "paid for while it starts"
