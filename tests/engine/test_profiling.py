"""Latency, ceilings and limits are measured on the loaded model, with the clock that is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from headway.core import Ns, Scope, UsageError
from headway.engine import (
    Ceilings,
    MachineFacts,
    ProductRate,
    Profile,
    ProfileSettings,
    SequentialRead,
    fingerprint,
    load_model,
    machine_facts,
    profile,
)
from headway.engine.ceilings import measure_ceilings
from headway.engine.memory import HUGE_PAGE, huge_room
from headway.engine.probe import least_ns, random_reads, rows_ns, sequential_reads
from headway.engine.probe_kernels import read_all, read_rows
from headway.engine.profiling import rotating_queries
from headway.engine.roofline import tower_work


class TickingClock:
    """Moves on by a fixed step whenever it is read, so that no test waits."""

    def __init__(self, step: int) -> None:
        self._now, self._step = 0, step

    def now(self) -> Ns:
        self._now += self._step
        return Ns(self._now)


def test_the_probe_reads_every_line_of_the_rows_it_is_given() -> None:
    room = huge_room(64 * 100)
    room[::64] = 1
    ids = np.array([0, 7, 99, 7])
    for ahead in (0, 3):
        # A byte every 64, and the last byte of each row, which is 0 here.
        assert read_rows(room.ctypes.data, 64, ids, ahead) == 4
        assert read_rows(room.ctypes.data, 640, np.array([0, 9]), ahead) == 20
    assert read_all(np.arange(1000)) == 499_500


@pytest.mark.parametrize("size", [10, HUGE_PAGE, HUGE_PAGE + 5])
def test_room_has_the_size_asked_for_and_starts_a_line(size: int) -> None:
    for huge in (True, False):
        room = huge_room(size, huge=huge)
        assert room.shape == (size,)
        assert room.ctypes.data % 64 == 0
        assert not room.any()
        room[:] = 3


def test_time_is_that_of_the_clock_and_the_first_turn_does_not_count() -> None:
    turns: list[int] = []
    assert least_ns(turns.append, TickingClock(50), 0.0) == 50
    assert turns == [0, 0, 1, 2]


def test_interrupted_turns_do_not_count() -> None:
    clock, turns = TickingClock(1), iter(range(100))

    def work(_turn: int) -> None:
        for _ in range(1000 if next(turns) % 3 else 5):
            clock.now()

    assert least_ns(work, clock, 1e-5) == 6


def test_probes_tell_rates_by_size() -> None:
    clock = TickingClock(1_000_000)
    reads = sequential_reads([1 << 16, 1 << 20], clock, seconds=0.01)
    assert [r.size_bytes for r in reads] == [1 << 16, 1 << 20]
    assert reads[0].bytes_per_s == pytest.approx((8 << 20) / 1e-3)
    (rows,) = random_reads([40], 1 << 20, clock, np.random.default_rng(0), seconds=0.01)
    assert rows.ns_per_row == pytest.approx(1e6 / (1 << 16))
    with pytest.raises(UsageError, match="rows of 4096 bytes"):
        random_reads([4096], 1024, clock, np.random.default_rng(0))


def test_rows_of_several_regions_share_the_time() -> None:
    room = huge_room(1000)
    regions = [(room, 10, [np.arange(5)]), (room, 20, [np.arange(15)])]
    assert rows_ns(regions, TickingClock(100), 0.0) == 5


def test_ceilings_hold_what_could_be_measured() -> None:
    rng = np.random.default_rng(0)
    found = measure_ceilings(TickingClock(10**8), rng, seconds=0.01, region_bytes=1 << 20)
    assert {r.huge_pages for r in found.random} == {True, False}
    assert found.curves_per_s == pytest.approx(256 * 256 / 0.1)
    own = {p.precision for p in found.products if p.engine == "headway"}
    assert own == {"f32", "int8"}, "no ceiling is below what Headway's own engine reaches"
    assert {p.engine for p in found.products} >= {"headway", "onnxruntime"}
    measured = any(p.precision == "bf16" for p in found.products)
    assert measured != any("bf16" in note for note in found.notes)


def test_a_limit_is_read_off_the_nearest_ceiling() -> None:
    shape: dict[str, Any] = {"precision": "f32", "rows": 1, "inner": 1, "columns": 1}
    ceilings = Ceilings(
        sequential=(
            SequentialRead(size_bytes=1000, bytes_per_s=2e9),
            SequentialRead(size_bytes=1_000_000, bytes_per_s=1e9),
        ),
        random=(),
        products=(
            ProductRate(**shape, engine="onnxruntime", multiply_adds_per_s=5e8),
            ProductRate(**shape, engine="headway", multiply_adds_per_s=1e9),
        ),
    )
    assert ceilings.read_ns(2000) == pytest.approx(1000)
    assert ceilings.read_ns(500_000) == pytest.approx(500_000)
    assert ceilings.product_ns(70, "f32") == pytest.approx(70)
    assert ceilings.product_ns(70, "int8-dynamic") is None
    assert ceilings.curve_ns(100) == 0
    assert msgspec.structs.replace(ceilings, curves_per_s=1e8).curve_ns(5) == pytest.approx(50)


def test_profile_covers_all_rows_ids_and_threads(bundle_path: Path) -> None:
    settings = ProfileSettings(
        rows=(1, 7), concurrency=(1, 2), ids=("zipf", "uniform"), seconds=0.01, ceilings=False
    )
    told: list[str] = []
    found = profile(
        load_model(bundle_path),
        settings,
        TickingClock(1000),
        np.random.default_rng(0),
        lambda text, _done, _total: told.append(text),
    )
    cells = {(load.ids, load.concurrency): load.latency for load in found.loads}
    assert set(cells) == {(i, c) for i in ("zipf", "uniform") for c in (1, 2)}
    assert all(table.rows == (1, 7) for table in cells.values())
    assert cells["zipf", 1].at(7, 50.0) == 2000  # each of the two towers takes one tick
    assert found.fingerprint == fingerprint(machine_facts())
    assert found.limits == ()
    assert len(told) == 4
    assert msgspec.json.decode(msgspec.json.encode(found), type=Profile) == found


def test_distance_is_measured_time_over_both_limits(bundle_path: Path) -> None:
    loaded = load_model(bundle_path)
    settings = ProfileSettings(rows=(1, 4), concurrency=(1,), ids=("zipf",), seconds=0.01)
    found = profile(loaded, settings, TickingClock(10**9), np.random.default_rng(0))
    towers = {work.tower: work for work in tower_work(loaded)}
    assert {(x.tower, x.rows) for x in found.limits} == {(t, r) for t in towers for r in (1, 4)}
    for limit in found.limits:
        bound = max(1.0, limit.lookups_ns + limit.dense_ns + limit.curves_ns)
        assert limit.distance == pytest.approx(limit.measured_ns / bound)
    one, four = (x for x in found.limits if x.tower is Scope.CANDIDATE)
    assert four.multiply_adds == 4 * one.multiply_adds
    assert four.looked_up > one.looked_up


def test_multiply_adds_come_from_the_bundle_if_it_counted_them(bundle_path: Path) -> None:
    loaded = load_model(bundle_path)
    assert not any(work.counted for work in tower_work(loaded))
    candidate = [{"after": 512}, {"after": 256, "op": "aten.sigmoid"}]
    account = {"rows": 256, "query": [{"after": 5}], "candidate": candidate}
    object.__setattr__(loaded.bundle, "profiles", {"graph": msgspec.json.encode(account)})
    assert {work.tower: work.multiply_adds for work in tower_work(loaded)} == {
        Scope.QUERY: 5,
        Scope.CANDIDATE: 3,
    }
    assert {work.tower: work.curves for work in tower_work(loaded)} == {
        Scope.QUERY: 0,
        Scope.CANDIDATE: 1,
    }


def test_queries_rotate_through_more_than_the_caches_hold(bundle_path: Path) -> None:
    queries = rotating_queries(load_model(bundle_path), 3, "zipf", np.random.default_rng(0))
    assert len(queries) > 100
    assert {query.size for query in queries} == {3}


def test_another_kind_of_machine_has_another_fingerprint() -> None:
    here = machine_facts()
    assert fingerprint(msgspec.structs.replace(here, system="Other 1.0")) == fingerprint(here)
    other: MachineFacts = msgspec.structs.replace(here, usable_cores=here.usable_cores + 1)
    assert fingerprint(other) != fingerprint(here)


@pytest.mark.parametrize("rows", [(4, 1), (1, 1), (), (0,)])
def test_rows_must_rise_from_one(rows: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="rows"):
        ProfileSettings(rows=rows)
