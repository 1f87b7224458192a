"""Replies that tell of an error, the same wherever it was met."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any

import msgspec

from headway.core import HeadwayError, NotReadyError, OverloadedError, TooLargeError
from headway.server.endpoint import Receive, Reply
from headway.server.incoming import BodyTimeoutError
from headway.server.tensors import JSON

Send = Callable[[dict[str, Any]], Awaitable[None]]

CLOSE = (b"connection", b"close")
_LONGEST_ERROR = 500


def error_reply(error: HeadwayError) -> Reply:
    """Return headers and body of the reply that tells of an error."""
    headers = [JSON]
    if isinstance(error, OverloadedError):
        headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))))
    elif isinstance(error, NotReadyError):
        headers.append((b"retry-after", b"1"))
    elif isinstance(error, TooLargeError | BodyTimeoutError):
        headers.append(CLOSE)
    text = str(error)
    if len(text) > _LONGEST_ERROR:
        text = text[:_LONGEST_ERROR] + "..."
    return headers, msgspec.json.encode({"error": text})


async def too_many(_scope: dict[str, Any], _receive: Receive, send: Send) -> None:
    """Answer in place of the application that there are too many connections."""
    headers, body = error_reply(OverloadedError("too many connections; try again later", 1.0))
    headers += [CLOSE, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
