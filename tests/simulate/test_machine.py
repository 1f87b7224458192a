"""What a machine can do follows from its service times."""

from __future__ import annotations

import numpy as np
import pytest

from headway.core import UsageError
from headway.measure import LatencyProfile
from headway.simulate import (
    GTX_1080_TI,
    Machine,
    accelerated,
    best_rate,
    capacity_qps,
    knots_of,
    ratios_of,
)

SERVICE = ((1, 100_000), (64, 730_000), (256, 2_650_000), (1024, 10_330_000))


def test_a_busy_machine_is_slower_in_proportion_to_its_busy_cores() -> None:
    machine = Machine(cores=5, service=SERVICE, interference=1.4)
    assert [machine.factors(n) for n in (1, 3, 5)] == pytest.approx([1.0, 1.2, 1.4])
    assert Machine(cores=1, service=SERVICE, interference=2.0).factors(1) == 1.0


def test_capacity_is_every_worker_at_its_best_batch() -> None:
    alone = Machine(cores=1, service=SERVICE)
    assert best_rate(SERVICE) == pytest.approx(1024 / 10_330_000, rel=1e-3)
    assert capacity_qps(Machine(cores=8, service=SERVICE, interference=2), 100) == pytest.approx(
        4 * capacity_qps(alone, 100)
    )
    helped = Machine(cores=1, service=SERVICE, accelerators=1, accelerator_service=((1024, 10**6),))
    assert capacity_qps(helped, 100) > 5 * capacity_qps(alone, 100)


def test_a_batch_that_takes_too_long_is_no_capacity() -> None:
    machine = Machine(cores=8, service=SERVICE, interference=2)
    # A batch of 256 takes 5.3 ms of a busy core, one of 64 1.46 ms.
    assert capacity_qps(machine, 1e9, within_ns=5_300_000) == pytest.approx(4 * 256 / 2_650_000)
    assert capacity_qps(machine, 1e9, within_ns=1_460_000) == pytest.approx(4 * 64 / 730_000)
    assert capacity_qps(machine, 1e9, within_ns=100_000) == 0


def test_each_query_pays_its_query_tower_once_however_it_is_cut() -> None:
    machine = Machine(cores=2, service=SERVICE, tower_ns=100_000)
    per_query = machine.cores * 1e9 / capacity_qps(machine, 1_000) - 100_000
    alone = machine.cores * 1e9 / capacity_qps(machine, 2_000) - 100_000
    assert alone == pytest.approx(2 * per_query)


def test_what_was_not_measured_takes_longer_too() -> None:
    short = ((1, 100_000), (256, 2_650_000))
    assert best_rate(short) == pytest.approx(1024 / 10_330_000, rel=0.02)
    published = dict(accelerated(short, GTX_1080_TI["wnd"]))
    assert published[1024] == pytest.approx(10_330_000 / 4.62, rel=0.02)


def test_an_accelerator_is_as_much_faster_as_published() -> None:
    knots = dict(accelerated(SERVICE, GTX_1080_TI["wnd"]))
    assert knots[1] == pytest.approx(100_000 / 0.47, rel=1e-6)
    assert knots[1024] == pytest.approx(10_330_000 / 4.62, rel=1e-6)
    assert list(knots.values()) == sorted(knots.values())


def test_the_service_times_of_a_profile_rise_with_the_candidates() -> None:
    profile = LatencyProfile(
        rows=(1, 8, 64), percentiles=(50.0,), ns=((200.0,), (150.0,), (900.0,))
    )
    assert knots_of(profile) == ((1, 200), (8, 200), (64, 900))


def test_ratios_scatter_about_one_as_the_samples_do() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.lognormal(10, 0.3, 500).astype(np.int64) for _ in range(3)]
    ratios = np.array(ratios_of(samples, rng))
    assert np.median(ratios) == pytest.approx(1.0, rel=0.05)
    assert np.std(np.log(ratios)) == pytest.approx(0.3, rel=0.1)
    assert ratios_of([], rng) == ()


@pytest.mark.parametrize(
    ("made", "word"),
    [
        ({"service": ()}, "machine.service"),
        ({"service": SERVICE, "accelerators": 1}, "machine.accelerator_service"),
        ({"service": SERVICE, "ratios": (1.0, 0.0)}, "machine.ratios"),
    ],
)
def test_a_machine_that_cannot_compute_is_refused(made: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Machine(cores=1, **made)  # type: ignore[arg-type]
