"""Every process has the rate and the variation it is asked for, in one piece and in blocks."""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import UsageError
from headway.workload import (
    Bursts,
    DeepRecSysCompat,
    Diurnal,
    Gamma,
    Poisson,
    Process,
    Steps,
    draw_schedule,
    fixed_sizes,
    stream_schedule,
)

PROCESSES: list[Process] = [
    Poisson(),
    Gamma(0.3),
    Gamma(2.5),
    Bursts(10, 0.05),
    Diurnal(4),
    Diurnal(9, period_s=7, phase=0.3),
    Steps(((30, 1), (10, 1))),
    DeepRecSysCompat(),
]
NAMES = [f"{type(p).__name__}{i}" for i, p in enumerate(PROCESSES)]
processes = st.sampled_from(PROCESSES)


def draw(process: Process, rate: float, seconds: float, seed: int = 0) -> NDArray[np.int64]:
    return process.draw(rate, seconds, np.random.default_rng(seed))


def variation(arrivals: NDArray[np.int64]) -> float:
    gaps = np.diff(arrivals)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_the_mean_rate_is_the_one_asked_for(process: Process) -> None:
    counts = [len(draw(process, 100.0, 210.0, seed)) for seed in range(16)]
    # Three standard errors; bursts and clustered gaps vary more from run to run.
    error = max(float(np.std(counts)), 100.0) / 4
    assert np.mean(counts) == pytest.approx(21_000, abs=3.5 * error)


@settings(max_examples=60, deadline=None)
@given(processes, st.floats(0.5, 3000), st.floats(0.01, 3.0), st.integers(0, 99))
def test_arrivals_stand_in_order_inside_the_run(
    process: Process, rate: float, seconds: float, seed: int
) -> None:
    arrivals = draw(process, rate, seconds, seed)
    assert arrivals.dtype == np.int64
    assert (np.diff(arrivals) >= 0).all()
    assert len(arrivals) == 0 or 0 <= arrivals[0] <= arrivals[-1] <= round(seconds * 1e9)


@settings(max_examples=40, deadline=None)
@given(processes, st.integers(0, 99))
def test_equal_seeds_draw_equal_arrivals_and_other_seeds_others(
    process: Process, seed: int
) -> None:
    first, again, other = (draw(process, 300, 2, s) for s in (seed, seed, seed + 1))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_blocks_together_are_one_run(process: Process) -> None:
    rate, seconds, size = 2000.0, 210.0, 10_000
    rng = np.random.default_rng(3)
    blocks = list(stream_schedule(rate, seconds, fixed_sizes(5), rng, process, size))
    assert [len(b) for b in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert {b.duration_ns for b in blocks} == {210_000_000_000}
    together = np.concatenate([b.intended_ns for b in blocks])
    whole = draw(process, rate, seconds, seed=4)
    assert len(together) == pytest.approx(len(whole), rel=0.2 if process == PROCESSES[3] else 0.03)
    assert variation(together) == pytest.approx(variation(whole), rel=0.06)
    # No gap at borders: neither those of blocks nor those of the chunks they are drawn in.
    for width in (size, 65_536):
        across = np.diff(together)[width - 1 :: width]
        assert across.max() <= np.diff(whole).max() * 2


def test_the_length_of_blocks_changes_nothing() -> None:
    for process in PROCESSES:
        one, two = (
            np.concatenate(
                [
                    block.intended_ns
                    for block in stream_schedule(
                        500, 60, fixed_sizes(1), np.random.default_rng(1), process, size
                    )
                ]
            )
            for size in (777, 65_536)
        )
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_a_run_too_long_for_any_memory_begins_at_once(process: Process) -> None:
    rng = np.random.default_rng(0)
    blocks = stream_schedule(1e5, 1e8, fixed_sizes(1), rng, process)
    assert [len(b) for b in islice(blocks, 3)] == [65_536] * 3


def test_a_stream_may_be_empty() -> None:
    assert list(stream_schedule(1e-6, 1, fixed_sizes(1), np.random.default_rng(0))) == []


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 2.0), st.integers(0, 99))
def test_gamma_gaps_have_the_variation_asked_for(cv: float, seed: int) -> None:
    arrivals = draw(Gamma(cv), 500, 120, seed)
    assert variation(arrivals) == pytest.approx(cv, rel=0.06)
    gaps = np.diff(arrivals)
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0, abs=0.04)


def test_a_gamma_process_is_in_equilibrium_from_the_start() -> None:
    # Clustered or regular, the first gap-long window holds one arrival on average.
    for cv in (0.2, 3.0):
        rng = np.random.default_rng(7)
        counts = [len(Gamma(cv).draw(10, 0.1, rng)) for _ in range(8000)]
        assert np.mean(counts) == pytest.approx(1.0, abs=0.12)


def test_bursts_have_their_rates_their_share_and_their_length() -> None:
    process = Bursts.of_lengths(factor=20, calm_s=9.0, burst_s=1.0)
    assert process.share == pytest.approx(0.1)
    assert process.calm_s == pytest.approx(9.0)
    arrivals = draw(process, 290, 3000, seed=1)
    # 100 per second in calm, 2000 in a burst.
    counts = np.bincount(arrivals // 100_000_000, minlength=30_000)
    burst = counts > 60
    assert burst.mean() == pytest.approx(0.1, abs=0.02)
    assert np.median(counts[burst]) == pytest.approx(200, rel=0.03)
    assert np.median(counts[~burst]) == pytest.approx(10, abs=1)
    starts = int((burst[1:] & ~burst[:-1]).sum())
    assert burst.sum() / 10 / starts == pytest.approx(1.0, rel=0.25)


def test_a_day_has_its_peak_and_its_phase() -> None:
    whole = np.histogram(draw(Diurnal(4), 1000, 100), bins=100)[0]
    assert whole[45:55].mean() / np.r_[whole[:5], whole[-5:]].mean() == pytest.approx(4, rel=0.05)
    shifted = np.histogram(draw(Diurnal(4, 50.0, 0.5), 1000, 100), bins=100)[0]
    assert shifted[:3].mean() == pytest.approx(1600, rel=0.05)
    assert shifted[23:27].mean() == pytest.approx(400, rel=0.08)


def test_steps_multiply_the_rate_and_the_last_one_holds() -> None:
    process = Steps(((10, 1), (10, 10), (5, 0), (1, 1)))
    arrivals = draw(process, 500, 40)
    counts = np.histogram(arrivals / 1e9, bins=[0, 10, 20, 25, 40])[0]
    assert counts[2] == 0
    np.testing.assert_allclose(counts[[0, 1, 3]], [5000, 50_000, 7500], rtol=0.05)
    assert process.expected(500, 40) == pytest.approx(62_500)
    assert process.expected(500, 12) == pytest.approx(15_000)


def test_the_compat_process_has_whole_milliseconds_and_too_little_variation() -> None:
    arrivals = draw(DeepRecSysCompat(), 40, 1000)
    assert (arrivals % 1_000_000 == 0).all()
    assert np.diff(arrivals).mean() == pytest.approx(25e6, rel=0.01)
    assert variation(arrivals) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_a_process_is_written_and_read_by_its_tag(process: Process) -> None:
    assert msgspec.json.decode(msgspec.json.encode(process), type=type(process)) == process
    assert type(process).__name__ in repr(process)


def test_no_arrival_is_rounded_beyond_the_end() -> None:
    for seed in range(40):
        arrivals = draw(DeepRecSysCompat(), 500, 2, seed)
        assert arrivals[-1] < 2 * 10**9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gamma(0), "CV of 0.01 to 20, not 0"),
        (lambda: Gamma(float("nan")), "not nan"),
        (lambda: Bursts(0.5, 0.1), "1 to 1e6 times the calm, not 0.5"),
        (lambda: Bursts(5, 1), "share between 1e-06 and 1, not 1"),
        (lambda: Bursts(5, 0.1, 0), r"some seconds \(1e-06 to 1e\+09\), not 0"),
        (lambda: Bursts.of_lengths(5, 0, 1), "some seconds, not 0"),
        (lambda: Diurnal(0.9), "ratio of 1 to 1e6, not 0.9"),
        (lambda: Diurnal(2, period_s=-1), r"some seconds \(.*\), not -1"),
        (lambda: Diurnal(2, phase=float("inf")), "part of the period, not inf"),
        (lambda: Steps(()), "at least one"),
        (lambda: Steps(((0, 1),)), r"not \(0, 1\)"),
        (lambda: Steps(((1, -1),)), r"not \(1, -1\)"),
        (lambda: draw(Poisson(), float("nan"), 1), "positive rate"),
        (lambda: draw(Poisson(), 1, float("inf")), "at most 1e.09 s"),
        (lambda: draw_schedule(1e9, 1, fixed_sizes(1), np.random.default_rng()), "stream it"),
        (
            lambda: stream_schedule(1, 1, fixed_sizes(1), np.random.default_rng(), block=0),
            "at least one query, not 0",
        ),
    ],
)
def test_what_is_no_process_is_refused_with_its_value(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(UsageError, match=message):
        build()


def test_a_profile_that_draws_too_many_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(UsageError, match="at most 20,000,000"):
        draw_schedule(
            1e4, 1e3, fixed_sizes(1), np.random.default_rng(), Steps(((1, 1), (1000, 100)))
        )
