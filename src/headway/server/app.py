"""The ASGI application: routes, bodies, errors; one pass from request to reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import ceil
from typing import Any

import msgspec

from headway.core import (
    Clock,
    HeadwayError,
    MethodNotAllowedError,
    NotFoundError,
    NotImplementedByUsError,
    NotReadyError,
    OverloadedError,
    QueryError,
    TooLargeError,
    UnsupportedMediaError,
)
from headway.server import describe
from headway.server.budget import Budget
from headway.server.endpoint import ClientGoneError, Endpoint, Receive, Reply, stopped
from headway.server.manage import check_local
from headway.server.metrics import render
from headway.server.patience import Patience
from headway.server.settings import ServedModel, ServerSettings
from headway.server.tensors import JSON

Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[["Incoming"], Awaitable[Reply]]

_log = logging.getLogger("headway.server")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
CLOSE = (b"connection", b"close")
_LONGEST_ERROR = 500
_NOT_OFFERED = (
    "/v2/repository/models/",
    "/v2/systemsharedmemory",
    "/v2/cudasharedmemory",
    "/v2/trace",
    "/v2/logging",
)


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
                    f"content-encoding {_shown(value)} is not read here; send the body plain"
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


class App:
    """Serves models over HTTP; one per event loop, started by the lifespan protocol.

    Attributes:
        failure: why a model could not be started, if one could not.
        direct: paths of infer calls, for a protocol that calls endpoints itself.
        budget: of bytes in flight.
        settings: for a protocol that reads requests itself.
    """

    def __init__(
        self, models: Sequence[ServedModel], settings: ServerSettings, clock: Clock
    ) -> None:
        self._models = models
        self.settings = settings
        self._clock = clock
        self._endpoints: list[Endpoint] = []
        self._draining = False
        self._patience = Patience(settings.body_timeout_s)
        self.budget = Budget(settings.max_bytes_in_flight)
        self.failure: Exception | None = None
        self.direct: dict[bytes, Endpoint] = {}
        self._routes: dict[str, dict[str, Handler]] = {
            "/v2": {"GET": self._metadata},
            "/v2/health/live": {"GET": self._live},
            "/v2/health/ready": {"GET": self._ready},
            "/v2/models/stats": {"GET": self._all_stats},
            "/v2/repository/index": {"POST": self._index},
            "/metrics": {"GET": self._metrics},
        }

    def drain(self) -> None:
        """Report not ready and refuse new queries; those accepted go on."""
        self._draining = True
        for endpoint in self._endpoints:
            endpoint.drain()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        status = 200
        request: Incoming | None = None
        try:
            handler = self._route(scope["path"], scope["method"])
            request = Incoming(scope, receive, self.settings, self._patience, self.budget)
            headers, body = await handler(request)
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            # The limit for draining is reached; a reply is still owed.
            status, (headers, body) = 503, error_reply(stopped())
        except HeadwayError as error:
            status, (headers, body) = error.status, error_reply(error)
        except Exception:  # noqa: BLE001 - one bad request must not end in silence
            _log.exception("%s %s failed", scope["method"], _shown(scope["raw_path"]))
            status, (headers, body) = 500, error_reply(HeadwayError("internal error"))
        finally:
            if request is not None:
                request.release()
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _route(self, path: str, method: str) -> Handler:
        methods = self._routes.get(path)
        if methods is None:
            if path.startswith(_NOT_OFFERED):
                raise NotImplementedByUsError("Headway does not offer this part of the protocol")
            names = sorted({model.name for model in self._models})
            raise NotFoundError(f"nothing is at {path[:256]!r}; the models are {names}")
        if method not in methods:
            raise MethodNotAllowedError(f"{path} takes {' or '.join(methods)}, not {method}")
        return methods[method]

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            for model in self._models:
                endpoint = Endpoint(model, self.settings, self._clock)
                self._endpoints.append(endpoint)
                self._add_routes(endpoint)
        except Exception as error:  # noqa: BLE001 - told to whoever starts the server
            self.failure = error
            self.close()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        """Stop all workers; again is harmless."""
        for endpoint in self._endpoints:
            endpoint.close()

    def _add_routes(self, endpoint: Endpoint) -> None:
        model = endpoint.model

        async def infer(request: Incoming) -> Reply:
            body = await request.body()
            return await endpoint.infer(body, request.header_length, request.receive)

        async def rank(request: Incoming) -> Reply:
            return await endpoint.rank(await request.body(), request.receive)

        async def stats(_: Incoming) -> Reply:
            return _json({"model_stats": [describe.model_statistics(model, endpoint.metrics)]})

        async def config(_: Incoming) -> Reply:
            return _json(describe.model_config(model, endpoint.standing().plan))

        metadata = _fixed(describe.model_metadata(model))
        root = f"/v2/models/{model.name}"
        for base in (root, f"{root}/versions/{model.version}"):
            self._routes[base] = {"GET": metadata}
            self._routes[f"{base}/config"] = {"GET": config}
            self._routes[f"{base}/ready"] = {"GET": self._ready}
            self._routes[f"{base}/stats"] = {"GET": stats}
            self._routes[f"{base}/infer"] = {"POST": infer}
            if self.settings.allow_management:
                self._routes[f"{base}/plan"] = _plan_routes(endpoint)
            self.direct[f"{base}/infer".encode()] = endpoint
        self._routes[f"/v1/rank/{model.name}"] = {"POST": rank}

    async def _metadata(self, _: Incoming) -> Reply:
        return _json(describe.server_metadata())

    async def _live(self, _: Incoming) -> Reply:
        return _json({"live": True})

    async def _ready(self, _: Incoming) -> Reply:
        if self._draining:
            raise NotReadyError("the server is shutting down")
        for endpoint in self._endpoints:
            if not endpoint.alive:
                raise NotReadyError(f"model {endpoint.model.name} lost a runner; a new one is made")
        return _json({"ready": True})

    async def _all_stats(self, _: Incoming) -> Reply:
        stats = [describe.model_statistics(e.model, e.metrics) for e in self._endpoints]
        return _json({"model_stats": stats})

    async def _index(self, request: Incoming) -> Reply:
        await request.body()
        state = "UNAVAILABLE" if self._draining else "READY"
        return _json(
            [
                {"name": m.name, "version": m.version, "state": state, "reason": ""}
                for m in self._models
            ]
        )

    async def _metrics(self, _: Incoming) -> Reply:
        return [_TEXT], render(endpoint.metrics for endpoint in self._endpoints)


def _plan_routes(endpoint: Endpoint) -> dict[str, Handler]:
    async def tell(request: Incoming) -> Reply:
        check_local(request.scope)
        return _json(describe.model_plan(endpoint.model, endpoint.standing()))

    async def change(request: Incoming) -> Reply:
        check_local(request.scope)
        standing = await endpoint.replan(await request.body())
        return _json(describe.model_plan(endpoint.model, standing))

    return {"GET": tell, "POST": change}


def _fixed(content: object) -> Handler:
    body = msgspec.json.encode(content)

    async def handler(_: Incoming) -> Reply:
        return [JSON], body

    return handler


def _json(content: object) -> Reply:
    return [JSON], msgspec.json.encode(content)


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


def _number(name: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise QueryError(f"header {name.decode()} must be a whole number, not {_shown(value)}")
    return int(value)


def _shown(value: bytes) -> str:
    return ascii(value[:64].decode("latin-1"))


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"the body is over the limit of {limit} bytes; as bytes, tensors may be larger than as JSON"
    )


def _refuse(limit: int) -> bytes:
    raise _too_large(limit)
