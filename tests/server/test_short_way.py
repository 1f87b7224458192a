"""An infer call in one piece takes the short way, and nobody can tell by the reply."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.server.harness import (
    INFER,
    Client,
    Probe,
    Serve,
    infer_body,
    linear_model,
    read_all,
)

from headway.core import Ns, Plan
from headway.server import BackgroundServer, ServerSettings
from headway.server.endpoint import Endpoint

LONG = Plan(timeout_ns=Ns(60 * 10**9))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls that take the short way."""
    calls: list[int] = []
    begin = Endpoint.start_infer

    def counting(self: Endpoint, body: bytes, header_length: int | None, answer: Any) -> Any:
        calls.append(len(body))
        return begin(self, body, header_length, answer)

    monkeypatch.setattr(Endpoint, "start_infer", counting)
    return calls


@pytest.fixture
def held() -> Iterator[Probe]:
    probe = Probe()
    probe.gate.clear()
    yield probe
    probe.gate.set()


def request(*headers: str, path: str = INFER, **changes: Any) -> bytes:
    text = json.dumps(infer_body(**changes)).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(text)}",
        f"Inference-Header-Content-Length: {len(text)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


def read_reply(connection: Any) -> bytes:
    with connection.makefile("rb") as stream:
        head, length = b"", 0
        while (line := stream.readline()) not in (b"\r\n", b""):
            head += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head + b"\r\n" + bytes(stream.read(length))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rows": 0},
        {"item": {"datatype": "INT64", "shape": [2], "data": [0, 100]}},
        {"rows": 1001, "item": {"datatype": "INT64", "shape": [1001], "data": [1] * 1001}},
        {"item": None},
    ],
    ids=["good", "nothing to score", "bad id", "too many", "missing"],
)
def test_both_ways_give_the_same_bytes(
    client: Client, short: list[int], changes: dict[str, Any]
) -> None:
    whole = request("Connection: close", **changes)
    one_piece = client.raw(whole)
    assert len(short) == 1
    other_way = client.raw(whole.replace(b"Host: x", b"Host: x\r\nExpect: nothing"))
    assert len(short) == 1
    assert one_piece == other_way


def test_a_call_that_comes_in_pieces_is_answered_all_the_same(
    client: Client, short: list[int]
) -> None:
    whole = request("Connection: close")
    for cut in (1, 30, len(whole) - 80, len(whole) - 1):
        with client.connect() as connection:
            connection.sendall(whole[:cut])
            assert client.get("/v2/health/live").status == 200
            connection.sendall(whole[cut:])
            assert b" 200 OK" in read_all(connection)
    assert short, "of some only the first bytes came late"


@pytest.mark.parametrize(
    "header",
    ["Content-Encoding: gzip", "Expect: 100-continue", "Upgrade: h2c", "Transfer-Encoding: gzip"],
)
def test_a_special_header_takes_the_long_way(client: Client, short: list[int], header: str) -> None:
    client.raw(request("Connection: close", header))
    assert not short


def test_a_body_over_the_limit_takes_the_long_way(serve: Serve, short: list[int]) -> None:
    small, _ = serve(linear_model(), ServerSettings(port=0, max_body_bytes=1024))
    price = {"datatype": "FP32", "shape": [2, 2], "data": [0.123456789] * 200}
    reply = small.raw(request(price=price))
    assert b" 413 " in reply
    assert not short


def test_too_many_connections_are_refused_on_either_way(serve: Serve, short: list[int]) -> None:
    narrow, _ = serve(linear_model(), ServerSettings(port=0, max_connections=2))
    with narrow.connect():
        assert b" 503 " in narrow.raw(request("Connection: close"))
    assert not short


def test_a_connection_is_kept_and_calls_follow_one_another(
    client: Client, short: list[int]
) -> None:
    with client.connect() as connection:
        replies = []
        for _ in range(5):
            connection.sendall(request())
            replies.append(read_reply(connection))
    assert len(set(replies)) == 1
    assert b" 200 OK" in replies[0]
    assert len(short) == 5


def test_pipelined_calls_are_answered_in_order(serve: Serve, held: Probe, short: list[int]) -> None:
    client, _ = serve(linear_model(plan=LONG, probe=held))
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with client.connect() as connection:
        connection.sendall(request() + live + request("Connection: close"))
        held.entered.acquire()
        held.gate.set()
        reply = read_all(connection)
    assert [r[:3] for r in reply.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3
    assert reply.index(b"scores") < reply.index(b"live") < reply.rindex(b"scores")
    assert len(short) >= 1


def open_queries(client: Client) -> float:
    lines = client.get("/metrics").body.decode().splitlines()
    (line,) = [x for x in lines if x.startswith("headway_in_flight_queries{")]
    return float(line.split()[-1])


def test_a_client_that_leaves_has_its_call_cancelled(serve: Serve, held: Probe) -> None:
    client, _ = serve(linear_model(plan=LONG, probe=held))
    with client.connect() as connection:
        connection.sendall(request())
        held.entered.acquire()
        assert open_queries(client) == 1
    while open_queries(client):
        pass
    held.gate.set()
    metrics = client.get("/metrics").body.decode()
    assert 'headway_queries_total{model="linear",outcome="cancelled"} 1.0' in metrics


@pytest.mark.parametrize("finish", [True, False])
def test_draining_answers_calls_on_the_short_way(held: Probe, finish: bool) -> None:
    settings = ServerSettings(port=0, drain_s=10 if finish else 1)
    server = BackgroundServer([linear_model(plan=LONG, probe=held)], settings)
    client = Client(server.start())
    with client.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.sendall(request())
        held.entered.acquire()
        server.begin_drain()
        reply = pool.submit(read_reply, connection)
        if finish:
            held.gate.set()
        answer = reply.result()
        held.gate.set()
    server.stop()
    assert (b" 200 OK" if finish else b" 503 ") in answer
    assert finish or b"stopped before" in answer
    assert finish or b"connection: close" in answer


def test_a_time_limit_holds_on_the_short_way(serve: Serve, held: Probe) -> None:
    client, _ = serve(linear_model(plan=Plan(timeout_ns=Ns(10_000_000)), probe=held))
    assert b" 504 " in client.raw(request("Connection: close"))


def test_an_idle_connection_is_closed_and_a_used_one_is_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = serve(linear_model())
    monkeypatch.setattr(server._server.config, "timeout_keep_alive", 0.2)
    with client.connect() as used, client.connect() as idle:
        for connection in (used, idle):
            connection.sendall(request())
            assert b" 200 OK" in read_reply(connection)
        reader = threading.Thread(target=read_all, args=(idle,))
        reader.start()
        while reader.is_alive():
            used.sendall(request())
            assert b" 200 OK" in read_reply(used)


def test_a_connection_that_breaks_off_does_not_strand_the_replies_of_others(
    serve: Serve, held: Probe
) -> None:
    client, _ = serve(
        linear_model(plan=Plan(batch_candidates=100, timeout_ns=LONG.timeout_ns), probe=held)
    )
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with client.connect() as first, client.connect() as attacker, client.connect() as victim:
        first.sendall(request())
        assert held.entered.acquire(timeout=20)
        attacker.sendall(request() + live + b"BAD\r\n\r\n")
        read_all(attacker)
        victim.sendall(request())
        while open_queries(client) < 2:
            pass
        held.gate.set()
        assert b" 200 OK" in read_reply(first)
        assert b" 200 OK" in read_reply(victim)
