"""A small real server on loopback that does as a test tells it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from headway.core import Bag, Dense, Schema, Scope, Sequence, Sparse, Table

SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=3),
        Bag(name="liked", table="items", scope=Scope.QUERY, max_length=20),
        Sequence(name="history", table="items", scope=Scope.QUERY, max_length=8),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
        Dense(name="price", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="items", rows=5000, dim=4),),
)


@dataclass
class Request:
    """One request as the server saw it."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Answer:
    """What the server sends back; ``hang_up`` closes the connection in place of an answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False
    close_after: bool = False


Handler = Callable[[Request], Awaitable[Answer]]


def scores_of(request: Request) -> Answer:
    """Answer with the candidates' ``item`` ids as scores, in binary."""
    split = int(request.headers["inference-header-content-length"])
    head = msgspec.json.decode(request.body[:split])
    offset, items = split, np.empty(0, np.int64)
    for tensor in head["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        if tensor["name"] == "item":
            items = np.frombuffer(request.body[offset : offset + size], np.int64)
        offset += size
    data = items.astype(np.float32).tobytes()
    parameters = {"binary_data_size": len(data)}
    output = {"name": "scores", "datatype": "FP32", "shape": [len(items)], "parameters": parameters}
    json = msgspec.json.encode({"model_name": "m", "outputs": [output]})
    return Answer(200, json + data, {"Inference-Header-Content-Length": str(len(json))})


class LocalServer:
    """Serves in a thread of its own; ``handler`` may be replaced at any time."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.handler: Handler = self.score
        self.url = ""
        self._connections = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)

    async def score(self, request: Request) -> Answer:
        """Answer as a Headway server would, the config among it."""
        if request.path.endswith("/config"):
            text = msgspec.json.encode(SCHEMA).decode()
            config = {"name": "m", "parameters": {"headway_schema": {"string_value": text}}}
            return Answer(body=msgspec.json.encode(config))
        return scores_of(request)

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._over.wait()
        server.close()
        # The loop's own tasks are connections just being accepted; cancelled, they would be lost.
        for _ in range(4):  # an accept that was already due begins its task only now
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A task that never began closes nothing, and a closed writer still needs the loop.
        for writer in self._writers:
            writer.close()
        closing = [writer.wait_closed() for writer in self._writers]
        await asyncio.gather(*closing, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection = self._connections
        try:
            while await self._answer_one(reader, writer, connection):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(first.split(" ")[1], headers, body, connection)
        self.requests.append(request)
        answer = await self.handler(request)
        if answer.hang_up:
            return False
        fields = {"Content-Length": str(len(answer.body)), **answer.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + answer.body)
        await writer.drain()
        return not answer.close_after
