"""Workers: a thread each, with a runner of the model and one of its lighter version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from headway.core import Clock, HeadwayError
from headway.server.runners import LiveRunner
from headway.server.settings import Priority, ServedModel
from headway.server.threads import keep_to, set_priority

_JOIN_S = 5.0


class Worker:
    """Waits at its bell, asks for work, computes it.

    Attributes:
        number: the scheduler's name for it.
        runners: of the model and, if there is one, of its lighter version.
        bell: held but for the moment in which the worker is woken.
        retired: set to make it leave after the batch it has.
    """

    __slots__ = ("_thread", "bell", "number", "retired", "runners")

    def __init__(self, number: int, model: ServedModel, clock: Clock) -> None:
        self.number = number
        self.runners = _runners(model, clock)
        self.bell = threading.Lock()
        self.bell.acquire()
        self.retired = False
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether every runner of it lives; any thread may ask."""
        return all(runner.alive for runner in self.runners)

    def revive(self) -> None:
        """Make new runners for those that died."""
        for runner in self.runners:
            runner.revive()

    def start(self, run: Callable[[Worker], None], name: str, priority: Priority) -> None:
        """Run in a thread of its own; ``run`` begins by waiting for the bell.

        Args:
            run: what the thread does.
            name: of the model.
            priority: of the thread.

        Raises:
            HeadwayError: if the machine has no thread left.
        """
        thread = threading.Thread(
            target=self._run, args=(run, priority), name=f"{name}-{self.number}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise HeadwayError(
                f"no thread for worker {self.number} of {name!r}: {error}"
            ) from error
        self._thread = thread

    def _run(self, run: Callable[[Worker], None], priority: Priority) -> None:
        set_priority(priority)
        run(self)

    def keep_to(self, cores: Collection[int]) -> None:
        """Let its thread run on these cores only."""
        if self._thread is not None and self._thread.native_id is not None:
            keep_to(self._thread.native_id, cores)

    def leave(self) -> None:
        """Go without having worked: close the runners, end the thread if there is one."""
        self.retired = True
        if self._thread is None:
            self.close()
        else:
            self.bell.release()
            self.join()

    def join(self) -> None:
        """Return when the thread has ended, or after some seconds."""
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    @property
    def gone(self) -> bool:
        """Whether its thread has ended."""
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """Close the runners."""
        for runner in self.runners:
            runner.close()


def hire(
    model: ServedModel,
    numbers: Iterable[int],
    clock: Clock,
    run: Callable[[Worker], None],
    priority: Priority,
) -> list[Worker]:
    """Return workers that wait at their bells; all or none.

    Args:
        model: what they score.
        numbers: the scheduler's names for them.
        clock: tells their runners the time.
        run: what their threads do.
        priority: of the threads.

    Raises:
        HeadwayError: if a thread cannot be had; what a runner raises as it is made passes.
    """
    hired: list[Worker] = []
    try:
        for number in numbers:
            worker = Worker(number, model, clock)
            hired.append(worker)
        for worker in hired:
            worker.start(run, model.name, priority)
    except Exception:
        for worker in hired:
            worker.leave()
        raise
    return hired


def _runners(model: ServedModel, clock: Clock) -> Sequence[LiveRunner]:
    made: list[LiveRunner] = []
    try:
        for part in (model, model.lighter):
            if part is not None:
                runner = LiveRunner(part.new_runner, part.name, clock)
                made.append(runner)
    except Exception:
        for runner in made:
            runner.close()
        raise
    return tuple(made)
