"""The ASGI application: routes and handlers; one pass from request to reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from headway.core import (
    Clock,
    HeadwayError,
    MethodNotAllowedError,
    NotFoundError,
    NotImplementedByUsError,
    NotReadyError,
)
from headway.server import describe
from headway.server.budget import Budget
from headway.server.endpoint import ClientGoneError, Endpoint, Receive, Reply, stopped
from headway.server.incoming import Incoming, shown
from headway.server.manage import check_local
from headway.server.metrics import render
from headway.server.patience import Patience
from headway.server.replies import Send, error_reply
from headway.server.settings import ServedModel, ServerSettings
from headway.server.tensors import JSON

Handler = Callable[[Incoming], Awaitable[Reply]]

_log = logging.getLogger("headway.server")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_NOT_OFFERED = (
    "/v2/repository/models/",
    "/v2/systemsharedmemory",
    "/v2/cudasharedmemory",
    "/v2/trace",
    "/v2/logging",
)


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
            _log.exception("%s %s failed", scope["method"], shown(scope["raw_path"]))
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
