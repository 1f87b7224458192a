"""A server that speaks the Open Inference Protocol, as a target."""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from headway.core import (
    HeadwayError,
    NotFoundError,
    NotReadyError,
    Query,
    QueryError,
    Schema,
    UsageError,
)
from headway.loadgen.connection import Call, Connection, Reply
from headway.loadgen.wire import decode_scores, encode_infer, http_request
from headway.measure import Outcome

_REFUSED = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
_LATE = (HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT)
_INFER_LIMIT_S = 60.0


def parse_url(url: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        UsageError: if it is not a plain ``http://host:port``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"cannot read the address {url!r}: {error}") from error
    if parts.scheme != "http" or not host or parts.path not in ("", "/"):
        raise UsageError(f"cannot use the address {url!r}; write it like http://127.0.0.1:8000")
    return host, port or 80


class HttpTarget:
    """Keeps connections open and opens more when all are busy.

    A query that finds no connection waits here, and its waiting counts as latency. Made and
    used within one event loop, as an asynchronous context manager.
    """

    def __init__(
        self, url: str, model: str, schema: Schema, *, connections: int = 16, limit: int = 200
    ) -> None:
        """Make the target; nothing is opened yet.

        Args:
            url: ``http://host:port``.
            model: name of the model on that server.
            schema: what queries fit.
            connections: opened before the first query.
            limit: connections at most.
        """
        self._host, self._port = parse_url(url)
        self._path = f"/v2/models/{model}/infer"
        self._schema = schema
        self._connections = min(connections, limit)
        self._limit = limit
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Call] = deque()
        self._closed = False
        self._emptied = asyncio.Event()
        self.fault = ""
        """What the server said to the first query that it did not answer with scores."""

    async def __aenter__(self) -> Self:
        """Open the first connections.

        Raises:
            NotReadyError: if nobody listens.
        """
        for _ in range(self._connections):
            self._open_one()
        await asyncio.gather(*self._opening)
        if not self._all:
            raise NotReadyError(f"no server answers at http://{self._host}:{self._port}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close everything at once."""
        self._closed = True
        for task in tuple(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in tuple(self._all):
            connection.abort()
        self._give_up_waiting()
        if self._all:
            await self._emptied.wait()

    def prepare(self, query: Query) -> bytes:
        """Return the whole HTTP request."""
        return http_request(
            self._path, f"{self._host}:{self._port}", *encode_infer(query, self._schema)
        )

    def submit(self, prepared: bytes) -> asyncio.Future[Outcome]:
        """Send a request; its reply is read and, but for its status, dropped."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        self._dispatch(Call(prepared, outcome, self._outcome))
        return outcome

    async def infer(self, query: Query) -> NDArray[np.float32]:
        """Return the scores of one query.

        Raises:
            HeadwayError: with what the server said, if it gave no scores.
        """
        return read_scores(await self.call(self.prepare(query)))

    async def call(self, request: bytes) -> Reply:
        """Send any request to this server and return its whole reply.

        Raises:
            TimeoutError: if there is none within a minute.
        """
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._dispatch(Call(request, reply, lambda found: found, keep=True))
        async with asyncio.timeout(_INFER_LIMIT_S):
            return await reply

    def connected(self, connection: Connection) -> None:
        """Take a new connection into use (called by the connection)."""
        self._all.add(connection)
        self._emptied.clear()
        self.freed(connection)

    def freed(self, connection: Connection) -> None:
        """Give a connection the next call (called by the connection)."""
        while self._waiting:
            call = self._waiting.popleft()
            if call.wanted:
                connection.send(call)
                return
        self._idle.append(connection)

    def lost(self, connection: Connection, call: Call | None, *, untouched: bool) -> None:
        """Forget a connection (called by the connection).

        A server may close an idle connection at the moment it is used again. Such a query is
        sent once more, as RFC 9112 section 9.3.1 allows for requests without side effects.
        """
        self._all.discard(connection)
        if not self._all:
            self._emptied.set()
        if connection in self._idle:
            self._idle.remove(connection)
        if call is not None and call.wanted:
            if untouched and not call.again and not self._closed:
                call.again = True
                self._dispatch(call)
                return
            call.complete(Reply(0, b"the connection was closed"))
        if self._waiting and not self._closed:
            self._open_one()

    def _dispatch(self, call: Call) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(call)
                return
        self._waiting.append(call)
        if len(self._opening) < len(self._waiting):
            self._open_one()

    def _open_one(self) -> None:
        if len(self._all) + len(self._opening) < self._limit:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            # Others may still serve those who wait; with none left nobody will.
            if not self._all and len(self._opening) <= 1:
                self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        while self._waiting:
            self._waiting.popleft().complete(Reply(0, b"no connection to the server"))

    def _outcome(self, reply: Reply) -> Outcome:
        if reply.status == HTTPStatus.OK:
            return Outcome.OK
        self.fault = self.fault or describe(reply)
        if reply.status in _REFUSED:
            return Outcome.REFUSED
        return Outcome.LATE if reply.status in _LATE else Outcome.FAILED


def read_scores(reply: Reply) -> NDArray[np.float32]:
    """Return the scores that a reply holds.

    Raises:
        HeadwayError: with what the server said, if there are none.
    """
    if reply.status == HTTPStatus.OK:
        return decode_scores(reply.body, reply.header_length)
    kind = {404: NotFoundError, 400: QueryError}.get(reply.status, HeadwayError)
    raise kind(describe(reply))


def describe(reply: Reply) -> str:
    """Return what the server said, in a line."""
    said = reply.body[:500].decode("utf-8", "replace")
    return f"the server answered {reply.status}: {said}" if reply.status else said
