"""Arrivals are Poisson, sizes are production's, ids are skewed as told, all from a seed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import (
    Bag,
    DataError,
    Dense,
    Query,
    Ragged,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    UsageError,
    check_query,
)
from headway.workload import (
    Schedule,
    Workload,
    draw_queries,
    draw_schedule,
    fixed_sizes,
    lognormal_sizes,
    mlperf_sizes,
    normal_sizes,
    production_sizes,
    scatter,
    zipf_ranks,
)

SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=3),
        Sparse(name="user", table="users", scope=Scope.QUERY),
        Bag(name="liked", table="items", scope=Scope.QUERY, max_length=20),
        Sequence(name="history", table="items", scope=Scope.QUERY, max_length=8),
        Dense(name="price", scope=Scope.CANDIDATE),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
        Bag(name="tags", table="tags", scope=Scope.CANDIDATE, max_length=4),
    ),
    tables=(
        Table(name="users", rows=1, dim=4),
        Table(name="items", rows=5000, dim=4),
        Table(name="tags", rows=17, dim=4),
    ),
)


@pytest.mark.parametrize("rate", [5.0, 900.0])
def test_gaps_are_exponential_with_the_mean_asked_for(rate: float) -> None:
    schedule = draw_schedule(rate, 40_000 / rate, fixed_sizes(1), np.random.default_rng(1))
    gaps = np.diff(schedule.intended_ns)
    assert gaps.mean() == pytest.approx(1e9 / rate, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.02)
    # Memoryless: the gap after a long gap is as long as any other.
    after_long = gaps[1:][gaps[:-1] > gaps.mean()]
    assert after_long.mean() == pytest.approx(gaps.mean(), rel=0.04)
    assert np.median(gaps) == pytest.approx(np.log(2) * 1e9 / rate, rel=0.03)


def test_counts_of_equal_windows_vary_like_their_mean() -> None:
    schedule = draw_schedule(50.0, 5000.0, fixed_sizes(1), np.random.default_rng(2))
    counts = np.bincount(schedule.intended_ns // 1_000_000_000, minlength=5000)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.08)


@given(st.floats(0.5, 5000), st.floats(0.01, 2.0), st.integers(0, 99))
def test_every_arrival_falls_inside_the_run(rate: float, seconds: float, seed: int) -> None:
    schedule = draw_schedule(rate, seconds, production_sizes, np.random.default_rng(seed))
    assert (np.diff(schedule.intended_ns) >= 0).all()
    assert len(schedule) == 0 or schedule.intended_ns[-1] <= schedule.duration_ns
    assert len(schedule) == len(schedule.sizes)


def test_the_same_seed_draws_the_same_run_and_another_seed_another() -> None:
    first, again, other = (
        draw_schedule(50, 5, production_sizes, np.random.default_rng(s)) for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.intended_ns, again.intended_ns)
    np.testing.assert_array_equal(first.sizes, again.sizes)
    assert first.intended_ns.tolist() != other.intended_ns.tolist()


def test_a_saved_schedule_comes_back_whole(tmp_path: Path) -> None:
    schedule = draw_schedule(50, 5, production_sizes, np.random.default_rng(3))
    schedule.save(tmp_path / "run.npz")
    back = Schedule.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(back.intended_ns, schedule.intended_ns)
    np.testing.assert_array_equal(back.sizes, schedule.sizes)
    assert back.duration_ns == schedule.duration_ns


def test_models_are_saved_and_older_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    numbers, sizes = np.array([1, 5, 9]), np.array([4, 5, 6])
    Schedule(numbers, sizes, 10, np.array([2, 0, 1], np.int16)).save(path)
    back = Schedule.load(path)
    assert back.models.tolist() == [2, 0, 1]
    assert back.models.dtype == np.int16
    np.savez(path, intended_ns=numbers, sizes=sizes, duration_ns=10)
    assert Schedule.load(path).models.tolist() == [0, 0, 0]
    np.savez(path, intended_ns=numbers, sizes=sizes, duration_ns=10, models=np.array([2.5, 0, 1]))
    with pytest.raises(DataError, match="is not a schedule"):
        Schedule.load(path)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 999), st.integers(0, 9))))
def test_any_schedule_is_saved_and_loaded(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(sorted(rows), np.int64).reshape(-1, 3).T
    schedule = Schedule(columns[0], columns[1], 10**9, columns[2].astype(np.int16))
    with TemporaryDirectory() as folder:
        schedule.save(Path(folder) / "run.npz")
        back = Schedule.load(Path(folder) / "run.npz")
    for name in ("intended_ns", "sizes", "models", "duration_ns"):
        np.testing.assert_array_equal(getattr(back, name), getattr(schedule, name))


def test_a_file_that_is_no_schedule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with pytest.raises(DataError, match="is not a schedule"):
        Schedule.load(path)
    for content in (b"", b"hello", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a schedule"):
            Schedule.load(path)
    whole = draw_schedule(50, 5, production_sizes, np.random.default_rng(3))
    whole.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=3).tolist():
            damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        with suppress(DataError):  # what hits unused bytes changes nothing
            Schedule.load(path)
    np.savez(path, intended_ns=np.array([object()]), sizes=np.ones(1), duration_ns=1)
    with pytest.raises(DataError, match="is not a schedule"):
        Schedule.load(path)


@pytest.mark.parametrize(
    ("intended", "sizes", "message"),
    [
        ([2, 1], [1, 1], "in order"),
        ([1, 2], [1], "2 arrivals but 1 sizes"),
        ([1, 2], [1, 0], "at least one candidate"),
        ([1, 20], [1, 1], "does not fit"),
    ],
)
def test_an_impossible_schedule_is_refused(
    intended: list[int], sizes: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Schedule(np.array(intended), np.array(sizes), 10)


def test_models_must_fit_the_arrivals() -> None:
    for models, message in (([0], "2 arrivals but 1 models"), ([0, -1], "counted from 0")):
        with pytest.raises(DataError, match=message):
            Schedule(np.array([1, 2]), np.array([1, 1]), 10, np.array(models, np.int16))


def test_production_sizes_have_the_published_percentiles() -> None:
    sizes = production_sizes(400_000, np.random.default_rng(0))
    found = np.percentile(sizes, [1, 5, 25, 50, 75, 90, 95, 99, 99.9])
    np.testing.assert_allclose(found, [13, 62, 145, 178, 240, 511, 604, 920, 991], rtol=0.04)
    assert sizes.mean() == pytest.approx(238.8, rel=0.01)
    assert sizes.std() / sizes.mean() == pytest.approx(0.75, abs=0.01)
    assert (sizes.min(), sizes.max()) == (1, 999)
    largest = np.sort(sizes)[-len(sizes) // 4 :]
    assert largest.sum() / sizes.sum() == pytest.approx(0.52, abs=0.01)


def test_lognormal_sizes_have_the_published_percentiles() -> None:
    sizes = lognormal_sizes()(200_000, np.random.default_rng(0))
    found = np.percentile(sizes, [1, 5, 50, 95, 99])
    np.testing.assert_allclose(found, [103, 118, 164, 228, 261], rtol=0.02)


def test_mlperf_and_normal_sizes_have_the_published_percentiles() -> None:
    sizes = mlperf_sizes(200_000, np.random.default_rng(0))
    found = np.percentile(sizes, [1, 5, 25, 50, 75, 90, 95, 99])
    assert found.tolist() == [100, 100, 200, 200, 300, found[5], found[6], 700]
    assert sizes.mean() == pytest.approx(270, rel=0.01)
    assert sizes.std() / sizes.mean() == pytest.approx(0.58, abs=0.01)
    normal = normal_sizes()(200_000, np.random.default_rng(0))
    found = np.percentile(normal, [1, 5, 50, 95, 99])
    np.testing.assert_allclose(found, [128, 139, 165, 191, 202], atol=1.5)
    clipped = normal_sizes(10, 1000)(2000, np.random.default_rng(0))
    assert (clipped.min(), clipped.max()) == (1, 1024)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.05, 2.5])
def test_zipf_ranks_follow_their_law(exponent: float) -> None:
    rows, count = 50, 400_000
    ranks = zipf_ranks(count, rows, exponent, np.random.default_rng(0))
    law = np.arange(1, rows + 1) ** -exponent
    expected = count * law / law.sum()
    seen = np.bincount(ranks, minlength=rows)
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square < rows + 5 * np.sqrt(2 * rows)


@given(st.integers(1, 2**40), st.floats(0, 4), st.integers(0, 99))
def test_zipf_ranks_stay_in_their_table(rows: int, exponent: float, seed: int) -> None:
    ranks = zipf_ranks(50, rows, exponent, np.random.default_rng(seed))
    assert ranks.min() >= 0
    assert ranks.max() < rows


@given(st.integers(1, 3000))
def test_scattering_moves_every_rank_to_a_row_of_its_own(rows: int) -> None:
    assert sorted(scatter(np.arange(rows), rows)) == list(range(rows))


def test_scattering_does_not_overflow_in_the_largest_table() -> None:
    rows = 2**40
    spread = scatter(np.array([0, 1, rows - 1]), rows)
    assert ((spread >= 0) & (spread < rows)).all()
    assert len(set(spread.tolist())) == 3


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 99), st.booleans())
def test_drawn_queries_fit_their_schema(sizes: list[int], seed: int, skewed: bool) -> None:
    rng = np.random.default_rng(seed)
    queries = draw_queries(SCHEMA, np.array(sizes), rng, ids="zipf" if skewed else "uniform")
    assert [q.size for q in queries] == sizes
    for query in queries:
        check_query(query, SCHEMA)


def test_full_lists_have_their_largest_length() -> None:
    queries = draw_queries(SCHEMA, np.array([3, 2]), np.random.default_rng(0), lengths="full")
    for query in queries:
        for name, column in {**query.context, **query.candidates}.items():
            feature = SCHEMA.feature(name)
            if isinstance(column, Ragged) and isinstance(feature, Bag | Sequence):
                assert (column.lengths() == feature.max_length).all()


def ids_of(queries: list[Query], name: str) -> list[int]:
    columns = [q.candidates[name] for q in queries]
    return [int(v) for c in columns for v in (c.values if isinstance(c, Ragged) else c)]


def test_skewed_ids_repeat_and_uniform_ones_spread() -> None:
    sizes = np.full(20, 500)
    zipf, uniform = (
        ids_of(draw_queries(SCHEMA, sizes, np.random.default_rng(0), ids=kind), "item")
        for kind in ("zipf", "uniform")
    )
    assert np.bincount(zipf).max() > 800
    assert np.bincount(uniform).max() < 20


def test_queries_repeat_with_their_seed() -> None:
    first, again = (draw_queries(SCHEMA, np.array([9]), np.random.default_rng(5)) for _ in "ab")
    assert ids_of(first, "tags") == ids_of(again, "tags")


def test_a_workload_draws_the_sizes_it_names() -> None:
    rng = np.random.default_rng(0)
    assert Workload.parse("64").draw_sizes(3, rng).tolist() == [64, 64, 64]
    assert Workload.parse("lognormal").draw_sizes(1000, rng).max() < 400
    assert Workload().draw_sizes(1000, rng).max() > 700
    assert set(Workload.parse("mlperf").draw_sizes(1000, rng).tolist()) == set(range(100, 701, 100))
    assert Workload.parse("normal:50,0").draw_sizes(3, rng).tolist() == [50, 50, 50]


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one candidate"):
        fixed_sizes(0)
    with pytest.raises(UsageError, match="sigma"):
        lognormal_sizes(sigma=-1)
    with pytest.raises(UsageError, match="std"):
        normal_sizes(std=-1)
    with pytest.raises(UsageError, match="positive rate"):
        draw_schedule(0, 1, production_sizes, np.random.default_rng(0))
