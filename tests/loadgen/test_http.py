"""The HTTP target over real sockets: reuse, growth, refusals, broken connections."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.loadgen.local_server import SCHEMA, Answer, LocalServer, Request, scores_of

from headway.core import (
    DataError,
    HeadwayError,
    MonotonicClock,
    NotFoundError,
    NotReadyError,
    Query,
    QueryError,
    UsageError,
)
from headway.loadgen import HttpTarget, fetch_schema, fire
from headway.measure import Outcome
from headway.workload import draw_queries, draw_schedule, fixed_sizes

pytestmark = pytest.mark.net


def queries(count: int, size: int = 5) -> list[Query]:
    return draw_queries(SCHEMA, np.full(count, size), np.random.default_rng(0))


async def test_scores_come_back_for_the_query_that_was_sent(server: LocalServer) -> None:
    async with HttpTarget(server.url, "m", SCHEMA) as target:
        for query in queries(3):
            scores = await target.infer(query)
            np.testing.assert_array_equal(scores, query.candidates["item"])
    assert server.requests[0].path == "/v2/models/m/infer"


async def test_queries_one_after_another_share_one_connection(server: LocalServer) -> None:
    async with HttpTarget(server.url, "m", SCHEMA, connections=4) as target:
        for query in queries(6):
            assert await target.submit(target.prepare(query)) is Outcome.OK
    assert len({r.connection for r in server.requests}) == 1


async def test_more_connections_open_when_all_are_busy_but_no_more_than_allowed(
    server: LocalServer,
) -> None:
    busy, most = 0, 0

    async def slow(request: Request) -> Answer:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.005)
        busy -= 1
        return scores_of(request)

    server.handler = slow
    async with HttpTarget(server.url, "m", SCHEMA, connections=1, limit=5) as target:
        prepared = [target.prepare(q) for q in queries(30)]
        outcomes = await asyncio.gather(*map(target.submit, prepared))
    assert set(outcomes) == {Outcome.OK}
    assert 2 <= most <= 5
    assert len({r.connection for r in server.requests}) <= 5


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (503, Outcome.REFUSED),
        (429, Outcome.REFUSED),
        (504, Outcome.LATE),
        (408, Outcome.LATE),
        (500, Outcome.FAILED),
        (499, Outcome.FAILED),
        (200, Outcome.OK),
    ],
)
async def test_a_status_becomes_its_outcome(
    server: LocalServer, status: int, outcome: Outcome
) -> None:
    async def answer(request: Request) -> Answer:
        return Answer(status, b'{"error":"no time"}')

    server.handler = answer
    async with HttpTarget(server.url, "m", SCHEMA) as target:
        assert await target.submit(target.prepare(queries(1)[0])) is outcome
        assert ("no time" in target.fault) == (status != 200)


async def test_what_the_server_says_stands_in_the_error(server: LocalServer) -> None:
    async def answer(request: Request) -> Answer:
        return Answer(400, b'{"error":"feature \'age\' holds NaN"}')

    server.handler = answer
    async with HttpTarget(server.url, "m", SCHEMA) as target:
        with pytest.raises(QueryError, match=r"400: .*'age' holds NaN"):
            await target.infer(queries(1)[0])


async def test_an_idle_connection_that_the_server_closed_loses_no_query(
    server: LocalServer,
) -> None:
    async def hang_up_on_the_second(request: Request) -> Answer:
        seen = [r for r in server.requests if r.connection == request.connection]
        return Answer(hang_up=True) if len(seen) > 1 else scores_of(request)

    server.handler = hang_up_on_the_second
    async with HttpTarget(server.url, "m", SCHEMA, connections=1) as target:
        for query in queries(3):
            assert await target.submit(target.prepare(query)) is Outcome.OK


async def test_a_server_that_always_hangs_up_fails_the_query(server: LocalServer) -> None:
    async def hang_up(request: Request) -> Answer:
        return Answer(hang_up=True)

    server.handler = hang_up
    async with HttpTarget(server.url, "m", SCHEMA, connections=2) as target:
        assert await target.submit(target.prepare(queries(1)[0])) is Outcome.FAILED
        with pytest.raises(HeadwayError, match="closed"):
            await target.infer(queries(1)[0])


async def test_connection_close_is_heeded(server: LocalServer) -> None:
    async def answer(request: Request) -> Answer:
        found = scores_of(request)
        found.headers["Connection"] = "close"
        found.close_after = True
        return found

    server.handler = answer
    async with HttpTarget(server.url, "m", SCHEMA, connections=1) as target:
        for query in queries(3):
            assert await target.submit(target.prepare(query)) is Outcome.OK
    assert len({r.connection for r in server.requests}) == 3


async def test_a_reply_that_is_no_http_fails_its_query(server: LocalServer) -> None:
    async def answer(request: Request) -> Answer:
        return Answer(headers={"Content-Length": "nonsense"})

    server.handler = answer
    async with HttpTarget(server.url, "m", SCHEMA, connections=1) as target:
        assert await target.submit(target.prepare(queries(1)[0])) is Outcome.FAILED


async def test_leaving_does_not_wait_for_a_server_that_hangs(server: LocalServer) -> None:
    async def hang(request: Request) -> Answer:
        await asyncio.Event().wait()
        return Answer()

    server.handler = hang
    async with HttpTarget(server.url, "m", SCHEMA, connections=1, limit=1) as target:
        prepared = target.prepare(queries(1)[0])
        replies = [target.submit(prepared), target.submit(prepared)]
    assert [await reply for reply in replies] == [Outcome.FAILED] * 2


async def test_a_schedule_is_fired_at_a_server(server: LocalServer) -> None:
    schedule = draw_schedule(300, 0.3, fixed_sizes(4), np.random.default_rng(1))
    async with HttpTarget(server.url, "m", SCHEMA) as target:
        prepared = [target.prepare(q) for q in queries(len(schedule), 4)]
        record = await fire(schedule, prepared, target, MonotonicClock())
    assert (record.status == Outcome.OK).all()
    assert (record.done_ns > record.intended_ns).all()


async def test_nobody_listening_is_said_at_once() -> None:
    with pytest.raises(NotReadyError, match="no server answers"):
        async with HttpTarget("http://127.0.0.1:1", "m", SCHEMA):
            pass
    with pytest.raises(NotReadyError, match="no server answers"):
        fetch_schema("http://127.0.0.1:1", "m")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:80", "https://a", "http://", "http://a:99999", "http://a/b"]
)
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        HttpTarget(url, "m", SCHEMA)


def test_the_schema_is_asked_of_the_server(server: LocalServer) -> None:
    assert fetch_schema(server.url, "m") == SCHEMA
    assert server.requests[0].path == "/v2/models/m/config"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(404), NotFoundError),
        (Answer(503), NotReadyError),
        (Answer(200, b"{}"), DataError),
        (Answer(200, b'{"parameters":{"headway_schema":{"string_value":"{}"}}}'), DataError),
    ],
)
def test_a_server_that_tells_no_schema_is_named(
    server: LocalServer, answer: Answer, kind: type[HeadwayError]
) -> None:
    async def give(request: Request) -> Answer:
        return answer

    server.handler = give
    with pytest.raises(kind, match=server.url):
        fetch_schema(server.url, "m")
