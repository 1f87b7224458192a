"""How long the head of a request may be, and how long it may take."""

from __future__ import annotations

import asyncio
from typing import Protocol

from headway.core import HeadwayError
from headway.server.settings import ServerSettings

_PER_HEADER = 4


class HeadTooLargeError(HeadwayError):
    """The request's line and headers are over the limit."""

    status = 431

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's line and headers are over the limit of {limit} bytes")


class HeadTimeoutError(HeadwayError):
    """The client began a request and did not go on."""

    status = 408


class Connection(Protocol):
    """What a head must know of its connection."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop

    @property
    def under_way(self) -> bool:
        """Whether a request that has begun is not answered yet."""
        ...

    def refuse(self, error: HeadwayError) -> None:
        """Answer with an error and close."""
        ...


class Head:
    """The head of a connection's present request, counted and timed.

    Attributes:
        begun: whether a request has begun whose headers have not ended.
        swallowed: bytes read since the parser last told of anything; it keeps those of a header
            to itself until the header ends.
    """

    __slots__ = ("_connection", "_settings", "_since", "_timer", "_total", "begun", "swallowed")

    def __init__(self, connection: Connection, settings: ServerSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._total = 0
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.begun = False
        self.swallowed = 0

    @property
    def too_large(self) -> bool:
        """Whether there is more of it than the limit."""
        return max(self._total, self.swallowed) > self._settings.max_head_bytes

    def begin(self) -> None:
        """Count from here."""
        self.begun = True
        self._total = self.swallowed = 0

    def take(self, size: int) -> None:
        """Count a part.

        Raises:
            HeadTooLargeError: if it is one too many.
        """
        self.swallowed = 0
        self._total += size + _PER_HEADER
        if self._total > self._settings.max_head_bytes:
            raise HeadTooLargeError(self._settings.max_head_bytes)

    def end(self) -> None:
        """Take note that the headers are complete."""
        self.begun = False
        self.swallowed = 0
        self._since = None

    def await_one(self) -> None:
        """See to it that the connection ends if no whole head comes in time."""
        if self._since is not None or self._connection.transport.is_closing():
            return
        self._since = self._connection.loop.time()
        if self._timer is None:
            self._wake_after(self._settings.head_timeout_s)

    def stop(self) -> None:
        """Forget the time."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_after(self, seconds: float) -> None:
        self._timer = self._connection.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._since is None or self._connection.transport.is_closing():
            return
        limit = self._settings.head_timeout_s
        left = self._since + limit - self._connection.loop.time()
        if left > 0:
            self._wake_after(left)
        elif self._connection.under_way:
            # It is we who do not go on reading.
            self._wake_after(limit)
        elif self.begun:
            self._connection.refuse(
                HeadTimeoutError(f"the headers did not come within {limit:g} s")
            )
        else:
            self._connection.transport.close()
