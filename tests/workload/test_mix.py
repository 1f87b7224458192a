"""A mix holds every part's queries, each with its own rate, in one order of time."""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import UsageError
from headway.workload import Gamma, Mix, Part, Schedule, Steps, Workload

MIX = Mix(
    (
        Part(name="ncf", workload=Workload.parse("8"), share=3),
        Part(name="din", workload=Workload.parse("64@gamma:2"), share=1),
        Part(name="wnd", workload=Workload.parse("512@diurnal:4"), share=1),
    )
)


def joined(blocks: list[Schedule], name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([np.empty(0, np.int64), *(getattr(b, name) for b in blocks)])


def test_every_part_has_its_share_its_sizes_and_its_arrivals() -> None:
    assert MIX.names == ("ncf", "din", "wnd")
    schedule = MIX.draw(1000, 100, np.random.default_rng(0))
    assert schedule.models.dtype == np.int16
    counts = np.bincount(schedule.models)
    np.testing.assert_allclose(counts, [60_000, 20_000, 20_000], rtol=0.05)
    np.testing.assert_array_equal(schedule.sizes, np.array([8, 64, 512])[schedule.models])
    gaps = np.diff(schedule.intended_ns[schedule.models == 1])
    assert gaps.std() / gaps.mean() == pytest.approx(2, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=5), st.integers(9, 300), st.integers(0, 9))
def test_blocks_of_a_mix_are_in_order_and_lose_nothing(
    shares: list[float], block: int, seed: int
) -> None:
    mix = Mix(tuple(Part(name=str(i), share=share) for i, share in enumerate(shares)))
    blocks = list(mix.stream(300, 2, np.random.default_rng(seed), block))
    assert all(0 < len(b) <= max(block, len(shares)) for b in blocks)
    times = joined(blocks, "intended_ns")
    assert (np.diff(times) >= 0).all()
    again = list(mix.stream(300, 2, np.random.default_rng(seed), 10**6))
    np.testing.assert_array_equal(times, joined(again, "intended_ns"))
    np.testing.assert_array_equal(joined(blocks, "models"), joined(again, "models"))


def test_a_part_draws_the_same_whatever_comes_after_it() -> None:
    alone = Mix(MIX.parts[:1]).draw(600, 5, np.random.default_rng(1))
    mixed = MIX.draw(1000, 5, np.random.default_rng(1))
    np.testing.assert_array_equal(alone.intended_ns, mixed.intended_ns[mixed.models == 0])


def test_an_endless_mix_begins_at_once_and_an_empty_one_is_empty() -> None:
    first = next(iter(islice(MIX.stream(1e5, 1e8, np.random.default_rng(0)), 1)))
    assert 20_000 < len(first) <= 65_536
    assert len(MIX.draw(1e-9, 1, np.random.default_rng(0))) == 0
    assert list(MIX.stream(1e-9, 1, np.random.default_rng(0))) == []


def test_a_mix_is_written_and_read() -> None:
    assert msgspec.json.decode(msgspec.json.encode(MIX), type=Mix) == MIX


def test_parts_that_make_no_mix_are_refused() -> None:
    part = Part(name="a", workload=Workload(arrivals=Gamma(2)))
    for parts, message in (
        ((), "1 to 1000 parts, not 0"),
        ((part, part), "names of their own"),
        ((Part(name="b", share=0),), "'b' needs a positive share, not 0"),
    ):
        with pytest.raises(UsageError, match=message):
            Mix(parts)
    with pytest.raises(UsageError, match="stream the mix"):
        MIX.draw(1e6, 1e3, np.random.default_rng(0))
    steep = Part(name="c", workload=Workload(arrivals=Steps(((1, 1e6),))))
    with pytest.raises(UsageError, match="at most 20,000,000"):
        Mix((steep,)).draw(1e3, 1, np.random.default_rng(0))
