"""One kept-alive HTTP/1.1 connection: a request out, a reply in, no copies between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import httptools

_SPLIT = b"inference-header-content-length"


@dataclass(slots=True)
class Reply:
    """A whole reply; ``status`` 0 means that the connection failed."""

    status: int
    body: bytes = b""
    header_length: int | None = None


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way.

    Attributes:
        request: head and body as they go over the wire.
        result: filled once the reply is complete, with what ``convert`` makes of it.
        convert: what the caller wants to know of the reply.
        keep: whether the body of a good reply is wanted; that of a refusal always is.
        again: it was sent once already, over a connection that turned out to be closed.
    """

    request: bytes
    result: asyncio.Future[Any]
    convert: Callable[[Reply], Any]
    keep: bool = False
    again: bool = False

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the reply."""
        return not self.result.done()

    def complete(self, reply: Reply) -> None:
        """Give the caller the reply, if it is still wanted."""
        if not self.result.done():
            self.result.set_result(self.convert(reply))


class Owner(Protocol):
    """What a connection reports to."""

    def connected(self, connection: Connection) -> None:
        """The connection is there and idle."""

    def freed(self, connection: Connection) -> None:
        """The reply is complete and the connection takes another request."""

    def lost(self, connection: Connection, call: Call | None, *, untouched: bool) -> None:
        """The connection is gone; ``untouched`` if a used one closed before any answer."""


@dataclass(slots=True, eq=False)
class _Parts:
    body: list[bytes] = field(default_factory=list)
    header_length: int | None = None


class Connection(asyncio.Protocol):
    """Carries one call at a time."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._parts = _Parts()
        self._replies = 0
        self._answering = False

    @property
    def usable(self) -> bool:
        """Whether a call may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, call: Call) -> None:
        """Send a call over the idle connection."""
        self._call = call
        self._answering = False
        cast("asyncio.Transport", self._transport).write(call.request)

    def abort(self) -> None:
        """Close at once, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the owner (called by the event loop)."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connected(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came (called by the event loop)."""
        self._answering = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Hand an unanswered call back (called by the event loop)."""
        self._transport, call, self._call = None, self._call, None
        untouched = self._replies > 0 and not self._answering
        self._owner.lost(self, call, untouched=untouched)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note where the JSON of a kept body ends (called by the parser)."""
        if self._call is not None and self._call.keep and name.lower() == _SPLIT:
            self._parts.header_length = int(value)

    def on_body(self, body: bytes) -> None:
        """Keep the body if somebody will read it (called by the parser)."""
        call = self._call
        if call is not None and (call.keep or self._parser.get_status_code() != 200):
            self._parts.body.append(body)

    def on_message_complete(self) -> None:
        """Fill the reply (called by the parser)."""
        call, self._call = self._call, None
        transport = self._transport
        if call is None or transport is None:  # a reply that nobody asked for
            self.abort()
            return
        parts = self._parts
        if parts.body or call.keep:
            self._parts = _Parts()
        self._replies += 1
        status = self._parser.get_status_code()
        call.complete(Reply(status, b"".join(parts.body), parts.header_length))
        if self._parser.should_keep_alive():
            self._owner.freed(self)
        else:
            transport.close()
