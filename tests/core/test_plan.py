"""Plans that cannot work are refused."""

from __future__ import annotations

import msgspec
import pytest

from headway.core import Knots, Ns, Plan, UsageError, static_baseline


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_deadline_that_has_passed_before_it_begins_is_refused(timeout: int) -> None:
    with pytest.raises(msgspec.ValidationError, match="timeout_ns"):
        msgspec.convert({"timeout_ns": timeout}, Plan)


@pytest.mark.parametrize(("cores", "largest"), [(0, 100), (-1, 100), (2, 0)])
def test_nothing_is_divided_over_no_cores(cores: int, largest: int) -> None:
    with pytest.raises(UsageError, match=f"over {cores} cores"):
        static_baseline(cores, largest)


@pytest.mark.parametrize("name", ["service", "accelerator_service", "lighter_service"])
@pytest.mark.parametrize(
    "knots", [((2, 5), (1, 9)), ((1, 5), (1, 9)), ((0, 5),), ((1, 0),), ((-3, 4), (1, 4))]
)
def test_service_times_that_are_no_line_are_refused_by_name(
    name: str, knots: tuple[tuple[int, int], ...]
) -> None:
    with pytest.raises(UsageError, match=rf"plan\.{name} must hold positive"):
        Plan(**{name: knots})  # type: ignore[arg-type]


def test_offloading_needs_an_accelerator() -> None:
    with pytest.raises(UsageError, match="offload_candidates is 5"):
        Plan(offload_candidates=5)
    assert Plan(offload_candidates=5, accelerators=1).offload_candidates == 5


def test_a_plan_survives_json_with_its_service_times() -> None:
    plan = Plan(policy="adaptive", service=((1, 5), (64, 90)), lighter_service=((8, 9),))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_the_static_baseline_divides_the_largest_query_over_the_cores() -> None:
    plan = static_baseline(40, 1_000)
    assert (plan.workers, plan.split_size, plan.policy) == (40, 25, "fixed")
    assert static_baseline(8, 1).split_size == 1


@pytest.mark.parametrize(
    ("service", "says"),
    [
        ((), "give both or neither"),
        (((1, 1_000), (64, 9_000)), "more than the 1000 ns"),
        (((256, 256_000),), "more than the 1000 ns"),
        (((1, 9_000), (64, 1_000)), "more than the 1000 ns"),
    ],
)
def test_a_query_tower_is_a_part_of_the_shortest_time(service: Knots, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Plan(service=service, tower_ns=Ns(1_001))
