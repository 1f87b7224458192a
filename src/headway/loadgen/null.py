"""The ruler measured: a server that does nothing, and what the harness costs against it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import cast

import msgspec
import numpy as np

from headway.core import (
    Clock,
    Dense,
    MonotonicClock,
    NotReadyError,
    Schema,
    Scope,
    Sparse,
    Table,
)
from headway.loadgen.fire import fire
from headway.loadgen.http import HttpTarget
from headway.loadgen.loop import run
from headway.loadgen.target import NullTarget
from headway.measure import LatencySummary, RunRecord, summarize_latency
from headway.workload import draw_queries, draw_schedule, production_sizes

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_START_LIMIT_S = 60.0
_LENGTH = b"content-length:"
_POOL = 200
_SCHEMA = Schema(
    features=(
        Dense(name="context", scope=Scope.QUERY, width=16),
        Dense(name="candidate", scope=Scope.CANDIDATE, width=4),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="items", rows=100_000, dim=1),),
)


class HarnessCost(msgspec.Struct, frozen=True, kw_only=True):
    """What every measured latency contains that is not the server's.

    Attributes:
        rate_qps: at which it was measured.
        schedule: against a target that answers at once: timing and bookkeeping alone.
        http: against a server that answers with fixed bytes: the client and the loopback too.
    """

    rate_qps: float
    schedule: LatencySummary
    http: LatencySummary


def null_run(
    rate_qps: float = 200.0, seconds: float = 1.0, *, seed: int = 0, clock: Clock | None = None
) -> HarnessCost:
    """Drive targets that do nothing and return the harness's own lag and latency."""
    rng = np.random.default_rng(seed)
    schedule = draw_schedule(rate_qps, seconds, production_sizes, rng)
    sizes = production_sizes(_POOL, rng)
    queries = draw_queries(_SCHEMA, sizes, rng)
    time = clock or MonotonicClock()
    turns = [i % _POOL for i in range(len(schedule))]

    async def without_network() -> RunRecord:
        return await fire(schedule, [queries[i] for i in turns], NullTarget(), time)

    async def over_http(url: str) -> RunRecord:
        async with HttpTarget(url, "null", _SCHEMA) as target:
            pool = [target.prepare(q) for q in queries]
            return await fire(schedule, [pool[i] for i in turns], target, time)

    with null_server() as url:
        http = run(over_http(url))
    return HarnessCost(
        rate_qps=rate_qps,
        schedule=summarize_latency(run(without_network())),
        http=summarize_latency(http),
    )


class NullProtocol(asyncio.Protocol):
    """Replies once per request; reads no more of it than where it ends."""

    def __init__(self, reply: bytes = REPLY) -> None:
        self._reply = reply
        self._head = b""
        self._body_left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by the event loop)."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer when a request is complete (called by the event loop)."""
        if not self._body_left:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            self._body_left, data = _content_length(head), rest
        self._body_left = max(0, self._body_left - len(data))
        if not self._body_left and self._transport is not None:
            self._transport.write(self._reply)


@contextmanager
def null_server() -> Iterator[str]:
    """Run a null server in a process of its own and give its address.

    Raises:
        NotReadyError: if it does not start within a minute.
    """
    # Spawned, not forked: the parent may hold threads and loops.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_LIMIT_S):
            raise NotReadyError("the null server did not start within a minute")
        yield f"http://127.0.0.1:{ours.recv_bytes().decode()}"
    finally:
        ours.close()
        process.join(5)
        process.kill()
        process.join()
        process.close()


def _serve(pipe: Connection) -> None:
    """Serve until the other end of the pipe is closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(NullProtocol, "127.0.0.1", 0)
        over = asyncio.Event()
        loop.add_reader(pipe.fileno(), over.set)
        pipe.send_bytes(str(server.sockets[0].getsockname()[1]).encode())
        await over.wait()
        server.close()

    run(main())


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(_LENGTH)
    return int(lower[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
