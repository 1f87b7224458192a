"""One model's calls: decode, execute, apply the link, encode."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from headway.core import (
    Clock,
    DeadlineError,
    HeadwayError,
    Link,
    NotReadyError,
    Ns,
    Query,
    Schema,
)
from headway.scheduler import Completion, Outcome
from headway.server.batch import Ended, Ticket
from headway.server.executor import Executor, Standing
from headway.server.manage import changed_plan
from headway.server.metrics import ModelMetrics
from headway.server.patience import Patience
from headway.server.rank import RankCodec
from headway.server.settings import ServedModel, ServerSettings
from headway.server.tensors import Headers, InferCodec

Receive = Callable[[], Awaitable[dict[str, Any]]]
Reply = tuple[Headers, bytes]
Answer = Callable[[Reply | HeadwayError], None]
_WATCH_AFTER_S = 0.02
SLOW_JSON_BYTES = 64 << 10
"""More JSON than this is not read in the event loop."""
_log = logging.getLogger("headway.server")


class ModelOutputError(HeadwayError):
    """The model failed or gave something that is no number; the query was fine."""


class ClientGoneError(HeadwayError):
    """The client closed the connection; nobody is there to read a reply."""


class _Call(Protocol):
    @property
    def query(self) -> Query: ...


T = TypeVar("T")
C_contra = TypeVar("C_contra", bound=_Call, contravariant=True)


class _Encoder(Protocol[C_contra]):
    def encode(self, call: C_contra, scores: NDArray[np.float32], *, degraded: bool) -> Reply: ...


class Endpoint:
    """A served model with its workers; made in the event loop that it answers in."""

    def __init__(self, model: ServedModel, settings: ServerSettings, clock: Clock) -> None:
        self.model = model
        self._clock = clock
        self._settings = settings
        self._executor = Executor(
            model,
            clock,
            max_workers=settings.max_workers,
            priority=settings.worker_priority,
            pinned=settings.pin_workers,
        )
        self._changing = asyncio.Lock()
        self._infer = InferCodec(model.name, model.version, model.schema, settings)
        self._rank = RankCodec(model, settings)
        self._linking = Linking(model.schema)
        self._patience = Patience(_WATCH_AFTER_S)
        # One thread: more would only take Python from each other and from the event loop.
        self._reader = ThreadPoolExecutor(1, f"{model.name}-reader")
        self._watchers: set[asyncio.Task[None]] = set()
        executor = self._executor
        self.metrics = ModelMetrics(
            model.name, model.version, executor.standing, executor.batch_sizes, executor.refused
        )

    async def infer(self, body: bytes, header_length: int | None, receive: Receive) -> Reply:
        """Answer an infer call of the Open Inference Protocol.

        Raises:
            HeadwayError: with the status that the client is to see.
        """
        arrived = self._clock.now()
        size = len(body) if header_length is None else header_length
        call = await self._read(partial(self._infer.decode, body, header_length), size)
        return await self._answer(self._infer, call, arrived, receive)

    def start_infer(self, body: bytes, header_length: int | None, answer: Answer) -> Ticket:
        """Begin an infer call whose reply or error is given to ``answer``, in the event loop.

        Returns:
            what ``cancel`` takes; ``answer`` may have been called by then.

        Raises:
            HeadwayError: in place of a call of ``answer``.
        """
        arrived = self._clock.now()
        try:
            call = self._infer.decode(body, header_length)
        except HeadwayError:
            self.metrics.turned_away(invalid=True)
            raise

        def end(ticket: Ticket, completion: Completion) -> None:
            try:
                reply = self._reply(self._infer, call, ticket, completion)
            except HeadwayError as error:
                answer(error)
            except Exception:  # noqa: BLE001 - a call must not end in silence
                _log.exception("the reply to an infer call failed")
                answer(HeadwayError("internal error"))
            else:
                answer(reply)

        return self._submit(call.query, arrived, end)

    def cancel(self, ticket: Ticket) -> None:
        """End a call that nobody waits for any more."""
        self._executor.cancel(ticket)

    async def rank(self, body: bytes, receive: Receive) -> Reply:
        """Answer a rank call.

        Raises:
            HeadwayError: with the status that the client is to see.
        """
        arrived = self._clock.now()
        call = await self._read(partial(self._rank.decode, body), len(body))
        return await self._answer(self._rank, call, arrived, receive)

    def standing(self) -> Standing:
        """Return how the model is served at present."""
        return self._executor.standing()

    async def replan(self, body: bytes) -> Standing:
        """Change those settings of the plan that the JSON names, and say how it stands then.

        Raises:
            HeadwayError: as ``changed_plan`` and ``Executor.replan``; nothing is changed then.
        """
        # One after the other: each change is to what the one before left.
        async with self._changing:
            plan = changed_plan(body, self._executor.standing().plan, self._settings)
            # Beside the event loop, since workers take a while to make.
            await asyncio.to_thread(self._executor.replan, plan)
        return self._executor.standing()

    @property
    def alive(self) -> bool:
        """Whether every worker can compute."""
        return self._executor.alive

    def drain(self) -> None:
        """Refuse new queries; those accepted go on."""
        self._executor.drain()

    def close(self) -> None:
        """Stop the workers."""
        self._executor.close()
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _read(self, decode: Callable[[], T], size: int) -> T:
        """Decode so much JSON, in the event loop only if there is little."""
        try:
            if size <= SLOW_JSON_BYTES:
                return decode()
            return await asyncio.get_running_loop().run_in_executor(self._reader, decode)
        except HeadwayError:
            self.metrics.turned_away(invalid=True)
            raise

    async def _answer(
        self, encoder: _Encoder[C_contra], call: C_contra, arrived: Ns, receive: Receive
    ) -> Reply:
        ended: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()

        def end(_: Ticket, completion: Completion) -> None:
            if not ended.done():
                ended.set_result(completion)

        ticket = self._submit(call.query, arrived, end)
        # Most queries end sooner than it pays to watch whether their client is still there.
        self._patience.enter(ticket, partial(self._watch, ticket, receive))
        try:
            completion = await ended
        except asyncio.CancelledError:
            # The limit for draining is reached. The reply is still owed, and there is one.
            self.cancel(ticket)
            self.metrics.ended(Outcome.CANCELLED)
            raise stopped() from None
        finally:
            self._patience.leave(ticket)
        return self._reply(encoder, call, ticket, completion)

    def _submit(self, query: Query, arrived: Ns, ended: Ended) -> Ticket:
        try:
            return self._executor.submit(query, arrived, ended)
        except HeadwayError:
            self.metrics.turned_away(invalid=False)
            raise

    def _reply(
        self,
        encoder: _Encoder[C_contra],
        call: C_contra,
        ticket: Ticket,
        completion: Completion,
    ) -> Reply:
        try:
            if completion.outcome is not Outcome.DONE:
                raise _failure(completion.outcome)
            reply = encoder.encode(
                call, self._linking.scores(ticket.out), degraded=completion.lighter
            )
        except HeadwayError as error:
            self.metrics.ended(_outcome(error))
            raise
        self.metrics.scored(completion, call.query.size, self._clock.now())
        return reply

    def _watch(self, ticket: Ticket, receive: Receive) -> None:
        task = asyncio.get_running_loop().create_task(self._cancel_if_gone(ticket, receive))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def _cancel_if_gone(self, ticket: Ticket, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel(ticket)


class Linking:
    """Applies each task's link to raw outputs."""

    def __init__(self, schema: Schema) -> None:
        self._tasks = len(schema.tasks)
        self._sigmoid = [i for i, task in enumerate(schema.tasks) if task.link is Link.SIGMOID]

    def scores(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of raw outputs float32 ``[rows, tasks]``.

        Returns:
            float32 ``[rows]`` for one task, else ``[rows, tasks]``; may share memory with raw.

        Raises:
            ModelOutputError: if a raw output is NaN or infinite.
        """
        if not np.logical_and.reduce(np.isfinite(raw), axis=None):
            raise ModelOutputError("the model gave NaN or infinity for this query")
        if self._tasks == 1:
            flat = raw.reshape(-1)
            return sigmoid(flat) if self._sigmoid else flat
        out = raw.copy()
        if self._sigmoid:
            out[:, self._sigmoid] = sigmoid(raw[:, self._sigmoid])
        return out


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)) as a new array, without overflow; at least 1.6e-38."""
    out = np.maximum(x, np.float32(-87.0))
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.add(out, np.float32(1), out=out)
    return np.reciprocal(out, out=out)


def stopped() -> NotReadyError:
    """Say why a call that was accepted got no scores."""
    return NotReadyError("the server stopped before the scores were there")


def _failure(outcome: Outcome) -> HeadwayError:
    if outcome is Outcome.EXPIRED:
        return DeadlineError("the query's time was up before its scores were there")
    if outcome is Outcome.CANCELLED:
        return ClientGoneError("the client closed the connection")
    return ModelOutputError("the model failed on this query; other queries are not affected")


def _outcome(error: HeadwayError) -> Outcome:
    if isinstance(error, ModelOutputError):
        return Outcome.FAILED
    return Outcome.EXPIRED if isinstance(error, DeadlineError) else Outcome.CANCELLED
