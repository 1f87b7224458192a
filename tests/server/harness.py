"""A small real model, servers on real sockets, and a client that speaks plain HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from headway.core import (
    Bag,
    Columns,
    Dense,
    Hidden,
    Piece,
    Plan,
    Ragged,
    Runner,
    Schema,
    Scope,
    Sparse,
    Table,
)
from headway.core import (
    Sequence as SequenceFeature,
)
from headway.server import BackgroundServer, ServedModel

SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY),
        Bag(name="likes", table="items", scope=Scope.QUERY, max_length=4),
        Dense(name="price", scope=Scope.CANDIDATE, width=2),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
        SequenceFeature(name="tags", table="tags", scope=Scope.CANDIDATE, max_length=3),
    ),
    tables=(Table(name="items", rows=100, dim=1), Table(name="tags", rows=10, dim=1)),
)
POISON = 99
"""A candidate with this item makes the linear model fail, as a bug in an engine would."""


@dataclass
class Probe:
    """What the runners of one model did, and a gate to hold them at."""

    made: int = 0
    queries: int = 0
    batches: list[int] = field(default_factory=list)
    closed: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()


class LinearRunner:
    """Scores by a sum of all values and ids; counts what it is asked."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        probe.made += 1

    def query(self, context: Columns) -> Hidden:
        self._probe.queries += 1
        age, likes = context["age"], context["likes"]
        assert isinstance(likes, Ragged)
        assert isinstance(age, np.ndarray)
        if age[0, 0] == -999:
            raise RuntimeError("no such age")
        return float(age[0, 0]) + float(likes.values.sum()) / 100

    def candidates(self, pieces: Sequence[Piece]) -> None:
        self._probe.entered.release()
        self._probe.gate.wait()
        self._probe.batches.append(sum(p.stop - p.start for p in pieces))
        for piece in pieces:
            hidden = piece.hidden
            assert isinstance(hidden, float)
            item, price = piece.candidates["item"], piece.candidates["price"]
            tags = piece.candidates["tags"]
            assert isinstance(item, np.ndarray)
            assert isinstance(price, np.ndarray)
            assert isinstance(tags, Ragged)
            rows = slice(piece.start, piece.stop)
            if (item[rows] == POISON).any():
                raise RuntimeError("poisoned")
            tag = np.array([tags.slice(i, i + 1).values.sum() for i in range(len(item))])
            total = hidden + item / 100 + price.sum(axis=1) + tag / 10
            piece.out[rows, 0] = total[rows]

    def close(self) -> None:
        self._probe.closed += 1


def linear_model(
    name: str = "linear", plan: Plan | None = None, probe: Probe | None = None
) -> ServedModel:
    shared = probe or Probe()

    def new_runner() -> Runner:
        return LinearRunner(shared)

    return ServedModel(name, SCHEMA, plan or Plan(), new_runner)


def expected(
    age: float, likes: list[int], candidates: list[tuple[list[float], int, list[int]]]
) -> list[float]:
    base = age + sum(likes) / 100
    raw = [base + item / 100 + sum(price) + sum(tags) / 10 for price, item, tags in candidates]
    return [1 / (1 + float(np.exp(-x))) for x in raw]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])


class Client:
    """Plain HTTP against one server; a new connection for each call."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port = parts.hostname, parts.port

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, b"")
        answer.body = response.read()
        connection.close()
        return answer

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: bytes | Any, headers: dict[str, str] | None = None) -> Answer:
        return self.call("POST", path, body, headers)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are; return all that comes until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


def item(*ids: int) -> dict[str, Any]:
    """Return the input ``item`` of an infer request."""
    return {"datatype": "INT64", "shape": [len(ids)], "data": list(ids)}


def metric(client: Client, line: str) -> float:
    for found in client.get("/metrics").body.decode().splitlines():
        if found.startswith(line + " "):
            return float(found.split()[-1])
    raise AssertionError(line)


def wait_until(client: Client, line: str, value: float) -> None:
    for _ in range(2000):
        if metric(client, line) == value:
            return
    raise AssertionError(f"{line} is {metric(client, line)}, not {value}")


WAITING = 'headway_queue_queries{model="linear"}'
OPEN = 'headway_in_flight_queries{model="linear"}'


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def infer_body(rows: int = 2, **changes: Any) -> dict[str, Any]:
    """Return a good JSON infer request; changes replace whole inputs, None leaves one out."""
    inputs: dict[str, Any] = {
        "age": {"datatype": "FP32", "shape": [1, 1], "data": [0.5]},
        "likes": {"datatype": "INT64", "shape": [1, 4], "data": [3, 4, -1, -1]},
        "price": {"datatype": "FP32", "shape": [rows, 2], "data": [0.25] * 2 * rows},
        "item": {"datatype": "INT64", "shape": [rows], "data": list(range(rows))},
        "tags": {"datatype": "INT64", "shape": [rows, 2], "data": [[1, -1]] * rows},
    }
    inputs.update(changes)
    return {"inputs": [{"name": n, **i} for n, i in inputs.items() if i is not None]}


PLAN = "/v2/models/linear/plan"
INFER = "/v2/models/linear/infer"
RANK = "/v1/rank/linear"


Serve = Callable[..., tuple[Client, BackgroundServer]]
"""Starts a server for one model, which stops when the test ends."""
