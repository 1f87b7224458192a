"""HTTP/1.1 by uvicorn, with a shorter way for infer calls that arrive in one piece."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from headway.core import HeadwayError, QueryError
from headway.server.batch import Ticket
from headway.server.budget import Budget
from headway.server.endpoint import SLOW_JSON_BYTES, Endpoint, Reply, stopped
from headway.server.head import Head, HeadTooLargeError
from headway.server.replies import CLOSE, error_reply, too_many
from headway.server.settings import ServerSettings
from headway.server.tensors import Headers

_log = logging.getLogger("headway.server")
_SPECIAL = (b"content-encoding", b"transfer-encoding", b"expect", b"upgrade")
_LONGEST_NUMBER = 18


class Protocol(HttpToolsProtocol):
    """One connection.

    An infer call is answered without the ASGI application, that is without task, scope and
    events, if nothing about it is special: a POST with plain lengths within the limits, all of
    which is there once the bytes at hand are read, on a connection with no other call under way.
    All else, and all that is wrong with a request before its body is read, goes through uvicorn
    and the application.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct: dict[bytes, Endpoint] = self.config.app.direct  # type: ignore[union-attr]
        self._settings: ServerSettings = self.config.app.settings  # type: ignore[union-attr]
        # Uvicorn would refuse those over the limit in words of its own.
        self._limit, self.limit_concurrency = self.limit_concurrency, None
        self._served = self.app
        self.budget: Budget = self.config.app.budget  # type: ignore[union-attr]
        self._head = Head(self, self._settings)
        self._endpoint: Endpoint | None = None
        self._exchange: Exchange | None = None
        self._header_length = 0
        self._parts: list[bytes] = []
        self._idle_since: float | None = None

    # Events of the connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._head.await_one()

    def data_received(self, data: bytes) -> None:
        """Read; what has not arrived whole by then is left to uvicorn."""
        self._head.swallowed += len(data)
        super().data_received(data)
        if self._endpoint is not None:
            self._endpoint = None
            parts, self._parts = self._parts, []
            if not self.transport.is_closing():
                self._begin_slowly()
                for part in parts:
                    super().on_body(part)
        if self._head.swallowed > self._settings.max_head_bytes:
            self.send_400_response("")
        elif self._head.begun or (self._idle_since is None and not self.under_way):
            self._head.await_one()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a call under way is cancelled."""
        super().connection_lost(exc)
        self._endpoint = None
        self._head.stop()
        if self._exchange is not None:
            # Uvicorn knows the last request only, which another may have followed.
            self._exchange.disconnected = True
            self._exchange.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    # Events of the parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._head.begin()
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL."""
        self._head.take(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which nobody reads."""
        self._head.take(len(name) + len(value))
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the way that the request goes."""
        self._head.end()
        self._endpoint = self._short_way()
        if self._endpoint is None:
            self._begin_slowly()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._head.swallowed = 0
        if self._endpoint is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Begin to compute."""
        self._head.swallowed = 0
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            super().on_message_complete()
            return
        parts, self._parts = self._parts, []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        exchange = Exchange(self, endpoint, keep_alive=self.parser.should_keep_alive())
        self.cycle = exchange  # type: ignore[assignment]
        self._exchange = exchange
        exchange.begin(body, self._header_length)

    def _short_way(self) -> Endpoint | None:
        endpoint = self._direct.get(self.url)
        if endpoint is None or self.parser.get_method() != b"POST" or self._busy():
            return None
        length = header_length = b""
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name == b"inference-header-content-length":
                header_length = value
            elif name in _SPECIAL:
                return None
        if (
            not _plain(length)
            or not _plain(header_length)
            or int(length) > self._settings.max_body_bytes
        ):
            return None
        if int(header_length or length) > SLOW_JSON_BYTES:
            return None
        self._header_length = int(header_length)
        return endpoint if self.parser.get_http_version() == "1.1" else None

    def _busy(self) -> bool:
        return bool(
            self.under_way
            or self.pipeline
            or self.flow.write_paused
            or self.transport.is_closing()
            or self._over_the_limit()
        )

    @property
    def under_way(self) -> bool:
        """Whether a request that has begun is not answered yet."""
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _over_the_limit(self) -> bool:
        limit = self._limit
        return limit is not None and max(len(self.connections), len(self.tasks)) >= limit

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no request, and close."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if not self.under_way or getattr(cycle, "more_body", False):
            if self._head.too_large:
                self.refuse(HeadTooLargeError(self._settings.max_head_bytes))
            else:
                self.refuse(QueryError("malformed request: this is not HTTP/1.1"))
        # Else it would be taken for the reply to the request before.
        self.transport.close()

    def refuse(self, error: HeadwayError) -> None:
        """Write the reply to a request that could not be read; the connection ends with it."""
        headers, body = error_reply(error)
        headers = [header for header in headers if header != CLOSE]
        headers += [CLOSE, (b"content-length", b"%d" % len(body))]
        self.transport.write(_written(error.status, headers, body))
        self.transport.close()

    def _begin_slowly(self) -> None:
        url, headers = self.url, self.headers
        self.app = too_many if self._over_the_limit() else self._served
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        super().on_headers_complete()

    # Keep-alive: a timer that looks when it was last idle is cheaper than one for each request.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for too long."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                left, self.timeout_keep_alive_handler
            )


class Exchange:
    """An infer call and its reply; to uvicorn it looks like a request with a task of its own.

    Attributes:
        response_complete: whether it needs no reply any more.
        disconnected: set by uvicorn when the connection is gone.
        keep_alive: whether the connection outlives the reply; unset by uvicorn when it stops.
    """

    __slots__ = (
        "_endpoint",
        "_held",
        "_protocol",
        "_ticket",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    def __init__(self, protocol: Protocol, endpoint: Endpoint, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self._endpoint = endpoint
        self._ticket: Ticket | None = None
        self._held = 0
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = keep_alive

    def begin(self, body: bytes, header_length: int) -> None:
        """Begin to compute the reply."""
        self._protocol.tasks.add(self)  # type: ignore[arg-type]
        try:
            self._protocol.budget.take(len(body))
            self._held = len(body)
            ticket = self._endpoint.start_infer(body, header_length, self.answer)
        except HeadwayError as error:
            self.answer(error)
        except Exception:  # noqa: BLE001 - one bad request must not end in silence
            _log.exception("an infer call failed")
            self.answer(HeadwayError("internal error"))
        else:
            if not self.response_complete:
                self._ticket = ticket

    def answer(self, reply: Reply | HeadwayError) -> None:
        """Write the reply, unless nobody is there to read it or there was one."""
        if self.response_complete:
            return
        self._end()
        transport = self._protocol.transport
        if transport.is_closing():
            return
        status = 200
        if isinstance(reply, HeadwayError):
            status, reply = reply.status, error_reply(reply)
        headers, body = reply
        length = (b"content-length", b"%d" % len(body))
        if CLOSE in headers:
            self.keep_alive = False
            headers = [*headers, length]
        else:
            headers = [*headers, length] if self.keep_alive else [*headers, length, CLOSE]
        transport.write(_written(status, headers, body))
        if not self.keep_alive:
            transport.close()
        self._protocol.on_response_complete()

    def _end(self) -> Ticket | None:
        self.response_complete = True
        self._protocol.tasks.discard(self)
        self._protocol.budget.give(self._held)
        self._held = 0
        ticket, self._ticket = self._ticket, None
        return ticket

    # What uvicorn calls.

    @property
    def message_event(self) -> Exchange:
        """Return something to ``set``."""
        return self

    def set(self) -> None:
        """Take note that the connection is gone."""
        if self.disconnected and not self.response_complete:
            self._give_up()

    def cancel(self, msg: object = None) -> None:  # noqa: ARG002
        """Answer soon that the server has stopped; uvicorn walks through all tasks just now."""
        asyncio.get_running_loop().call_soon(self._stop)

    def _stop(self) -> None:
        if not self.response_complete:
            ticket = self._ticket
            self.answer(stopped())
            if ticket is not None:
                self._endpoint.cancel(ticket)

    def _give_up(self) -> None:
        ticket = self._end()
        if ticket is not None:
            self._endpoint.cancel(ticket)


def _written(status: int, headers: Headers, body: bytes) -> bytes:
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines += (b"\r\n", body)
    return b"".join(lines)


def _plain(number: bytes) -> bool:
    return number.isdigit() and len(number) <= _LONGEST_NUMBER
