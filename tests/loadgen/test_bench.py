"""Benches against a real server of known capacity, and the ruler measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.loadgen.local_server import SCHEMA, Answer, LocalServer, Request

from headway.core import HeadwayError, Query, Sla, UsageError, from_ms
from headway.loadgen import Bench, BenchSettings, null_run, sizes_for
from headway.measure import LbtSettings, Outcome
from headway.workload import Schedule, Workload, draw_queries

pytestmark = pytest.mark.net
QUICK = BenchSettings(seconds=0.3, warmup_s=0.05, pool=20, grace_s=0.2, connections=4)


def test_a_rate_is_fired_without_its_warm_up(server: LocalServer) -> None:
    record = Bench(server.url, "m", QUICK).rate(200)
    assert record.duration_ns == from_ms(300)
    assert (record.status == Outcome.OK).all()
    assert 20 < len(record) < 120


def test_queries_take_turns_and_have_the_workloads_sizes(server: LocalServer) -> None:
    settings = msgspec.structs.replace(QUICK, workload=Workload(sizes="fixed", size=7))
    record = Bench(server.url, "m", settings).rate(200)
    assert set(record.sizes.tolist()) == {7}
    bodies = {r.body for r in server.requests if r.path.endswith("infer")}
    assert 10 < len(bodies) <= 22


def test_the_same_seed_fires_the_same_schedule_at_every_server(server: LocalServer) -> None:
    bench = Bench(server.url, "m", QUICK, schema=SCHEMA)
    first, again, other = bench.rate(100, 5), bench.rate(100, 5), bench.rate(100, 6)
    np.testing.assert_array_equal(first.intended_ns, again.intended_ns)
    np.testing.assert_array_equal(first.sizes, again.sizes)
    assert first.intended_ns.tolist() != other.intended_ns.tolist()


def test_a_saved_schedule_is_fired_again_at_another_server(
    server: LocalServer, tmp_path: Path
) -> None:
    bench = Bench(server.url, "m", QUICK, schema=SCHEMA)
    schedule = bench.draw(200, 5)
    schedule.save(tmp_path / "run.npz")
    back = Schedule.load(tmp_path / "run.npz")
    sizes = sizes_for(back, 20, np.random.default_rng(1), 10**6)
    first, again = bench.play(schedule), Bench(server.url, "m", QUICK, sizes=sizes).play(back)
    np.testing.assert_array_equal(first.intended_ns, again.intended_ns)
    np.testing.assert_array_equal(first.sizes, again.sizes)
    assert (again.status == Outcome.OK).all()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=50), st.integers(0, 60))
def test_a_pool_for_a_schedule_has_each_of_its_sizes(sizes: list[int], count: int) -> None:
    schedule = Schedule(np.arange(len(sizes)), np.array(sizes), len(sizes))
    pool = sizes_for(schedule, count, np.random.default_rng(0), 2000)
    assert set(pool.tolist()) == set(sizes)
    assert pool.sum() <= 2000
    assert len(pool) <= max(count, len(set(sizes)))


def test_what_cannot_be_played_says_why(server: LocalServer) -> None:
    at, three = np.arange(3), np.array([3, 4, 5])
    for models, message in ((np.array([0, 1, 0], np.int16), "all of one model"),
                            (np.zeros(3, np.int16), "a pool holds at most 11")):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            sizes_for(Schedule(at, three, 10, models), 9, np.random.default_rng(0), 11)
    bench = Bench(server.url, "m", QUICK, sizes=np.array([3, 4]))
    with pytest.raises(UsageError, match="no query of 5 candidates"):
        bench.play(Schedule(at + 10**8, three, 10**9))
    with pytest.raises(UsageError, match=r"after the first 0\.05 s, which are warm-up"):
        bench.play(Schedule(at, three, 10**6))


def test_a_run_lasts_until_its_percentile_has_enough_queries(server: LocalServer) -> None:
    record = Bench(server.url, "m", QUICK).rate(150, sla=Sla(percentile=95.0))
    assert record.duration_ns > from_ms(600)
    short = msgspec.structs.replace(QUICK, max_seconds=0.4)
    record = Bench(server.url, "m", short).rate(100, sla=Sla(percentile=95.0))
    assert record.duration_ns == from_ms(400)


def test_one_by_one_measures_one_size_without_queueing(server: LocalServer) -> None:
    record = Bench(server.url, "m", QUICK).one_by_one(64, 15)
    assert record.sizes.tolist() == [64] * 15
    assert (record.sent_ns[1:] >= record.done_ns[:-1]).all()


def test_scores_are_those_of_the_query(server: LocalServer) -> None:
    (query,) = draw_queries(SCHEMA, np.array([9]), np.random.default_rng(0))
    np.testing.assert_array_equal(
        Bench(server.url, "m", QUICK).scores(query), query.candidates["item"]
    )


def test_the_highest_rate_of_a_server_that_refuses_is_below_its_capacity(
    server: LocalServer,
) -> None:
    score = server.score
    worker, waiting = asyncio.Semaphore(1), [0]

    async def one_at_a_time(request: Request) -> Answer:
        if "infer" not in request.path:
            return await score(request)
        if waiting[0] >= 3:
            return Answer(503)
        waiting[0] += 1
        try:
            async with worker:
                await asyncio.sleep(0.01)
        finally:  # on a slow machine the client may give up and end this
            waiting[0] -= 1
        return await score(request)

    server.handler = one_at_a_time
    search = LbtSettings(
        sla=Sla(percentile=90.0, limit_ns=from_ms(500)), start_qps=40, tolerance=0.2
    )
    found = Bench(server.url, "m", QUICK).lbt(search)
    assert 0 < found.lbt_qps < 150
    assert max(p.latency.outcomes["refused"] for p in found.points if not p.verdict.met) > 0


def test_a_server_that_refuses_the_queries_is_named_before_any_run(server: LocalServer) -> None:
    async def refuse(request: Request) -> Answer:
        return Answer(400, b'{"error":"missing input"}')

    server.handler = refuse
    with pytest.raises(HeadwayError, match="missing input"):
        Bench(server.url, "m", QUICK, schema=SCHEMA)


def test_an_unfit_query_raises_before_it_is_sent(server: LocalServer) -> None:
    bench = Bench(server.url, "m", QUICK)
    with pytest.raises(KeyError):
        bench.scores(Query("q", {}, {}, 1))


def test_the_harness_prices_itself() -> None:
    cost = null_run(rate_qps=100, seconds=0.3)
    for summary in (cost.schedule, cost.http):
        assert summary.outcomes["ok"] == summary.queries > 0
    assert cost.http.at(50.0).value_ms > 0
