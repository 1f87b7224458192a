"""Several searches side by side that take turns, so that drift of the machine hits all alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns:
    """Lets one party at a time go on, in rotation; a party that has left is not waited for."""

    def __init__(self, names: list[str]) -> None:
        self._order = list(names)
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait for the party's turn; at the end it is the next one's."""
        with self._changed:
            self._changed.wait_for(lambda: self._order[0] == name)
        try:
            yield
        finally:
            with self._changed:
                self._order.append(self._order.pop(0))
                self._changed.notify_all()

    def leave(self, name: str) -> None:
        """Take no more turns."""
        with self._changed:
            self._order.remove(name)
            self._changed.notify_all()


def in_turns(jobs: Mapping[str, Callable[[Turns], T]]) -> dict[str, T]:
    """Run the jobs at the same time, each doing its work within ``turns.turn(name)``.

    Raises:
        BaseException: what the first job that failed raised, once all have ended.
    """
    turns = Turns(list(jobs))
    parties = {name: _Party(name, job, turns) for name, job in jobs.items()}
    for party in parties.values():
        party.thread.start()
    for party in parties.values():
        party.thread.join()
    return {name: party.outcome() for name, party in parties.items()}


class _Party(Generic[T]):
    """One job and what came of it."""

    def __init__(self, name: str, job: Callable[[Turns], T], turns: Turns) -> None:
        self._name, self._job, self._turns = name, job, turns
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"search-{name}", daemon=True)

    def outcome(self) -> T:
        """Return what the job returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._job(self._turns))
        except BaseException as error:  # noqa: BLE001 - raised again by outcome()
            self._error = error
        finally:
            self._turns.leave(self._name)
