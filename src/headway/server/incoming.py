"""A request on its way in: its headers, and its body within limits of size and time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from headway.core import HeadwayError, QueryError, TooLargeError, UnsupportedMediaError
from headway.server.budget import Budget
from headway.server.endpoint import ClientGoneError, Receive
from headway.server.patience import Patience
from headway.server.settings import ServerSettings


class BodyTimeoutError(HeadwayError):
    """The client took too long to send its request."""

    status = 408


class Incoming:
    """A request whose headers are known and whose body may still be on its way.

    Attributes:
        scope: what ASGI says of the request.
        receive: gives the next ASGI event.
        header_length: the header Inference-Header-Content-Length, or None.
        declared: the header Content-Length, or None.
    """

    __slots__ = (
        "_budget",
        "_patience",
        "_settings",
        "_taken",
        "_too_slow",
        "declared",
        "header_length",
        "receive",
        "scope",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Receive,
        settings: ServerSettings,
        patience: Patience,
        budget: Budget,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self._budget = budget
        self._taken = 0
        self.header_length: int | None = None
        self.declared: int | None = None
        self._settings = settings
        self._patience = patience
        self._too_slow = False
        for name, value in scope["headers"]:
            if name == b"content-length":
                self.declared = _number(name, value)
            elif name == b"inference-header-content-length":
                self.header_length = _number(name, value)
            elif name == b"content-encoding" and value.strip().lower() != b"identity":
                raise UnsupportedMediaError(
                    f"content-encoding {shown(value)} is not read here; send the body plain"
                )

    async def body(self) -> bytes:
        """Return the whole body; what it takes of the budget is given back by ``release``.

        Raises:
            OverloadedError: if too many bytes are in flight.
            TooLargeError: before it is read if its length is declared, else on the way.
            BodyTimeoutError: if it does not come in time.
            ClientGoneError: if the client closes the connection instead.
        """
        limit = self._settings.max_body_bytes
        if self.header_length is None:
            limit = min(limit, self._settings.max_json_bytes)
        elif self.header_length > self._settings.max_json_bytes:
            raise TooLargeError(
                f"the JSON is over the limit of {self._settings.max_json_bytes} bytes"
            )
        if self.declared is not None and self.declared > limit:
            raise _too_large(limit)
        task = asyncio.current_task()
        self._patience.enter(self, partial(self._give_up, task))
        try:
            return await self._read(limit)
        except asyncio.CancelledError:
            if task is None or not self._too_slow:
                raise
            task.uncancel()
            raise BodyTimeoutError(
                f"the body did not come within {self._settings.body_timeout_s:g} s"
            ) from None
        finally:
            self._patience.leave(self)

    def release(self) -> None:
        """Give back to the budget."""
        self._budget.give(self._taken)
        self._taken = 0

    def _give_up(self, task: asyncio.Task[Any] | None) -> None:
        self._too_slow = True
        if task is not None:
            task.cancel()

    async def _read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ClientGoneError("the client closed the connection")
            part = event["body"]
            self._budget.take(len(part))
            self._taken += len(part)
            if not event["more_body"] and not parts:
                return part if len(part) <= limit else _refuse(limit)
            size += len(part)
            if size > limit:
                _refuse(limit)
            parts.append(part)
            if not event["more_body"]:
                return b"".join(parts)


def _number(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise QueryError(f"header {name.decode()} must be a whole number, not {shown(value)}")
    return int(value)


def shown(value: bytes) -> str:
    """Return what a client sent, short and fit for a message."""
    return ascii(value[:64].decode("latin-1"))


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"the body is over the limit of {limit} bytes; as bytes, tensors may be larger than as JSON"
    )


def _refuse(limit: int) -> bytes:
    raise _too_large(limit)
