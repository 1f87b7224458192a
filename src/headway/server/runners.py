"""A worker's runner that is replaced when it dies; what it fails at is logged in few lines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from headway.core import Clock, Columns, HeadwayError, Hidden, Ns, Piece, Runner

T = TypeVar("T")
_log = logging.getLogger("headway.server")
_PAUSE = Ns(1_000_000_000)
RETRY_S = 1.0
"""After this time a worker without a runner tries again, also if it has nothing to do."""


class RunnerDeadError(HeadwayError):
    """There is no runner at present; a new one could not be made."""


class LiveRunner:
    """One worker's runner. A dead one is closed and replaced; used by one thread at a time.

    A runner counts as dead if it fails for a reason that lies with its connection to whatever
    computes (an ``OSError`` or ``EOFError``, or an error that comes from one). Any other failure
    is the query's.
    """

    def __init__(self, new_runner: Callable[[], Runner], name: str, clock: Clock) -> None:
        self._new_runner = new_runner
        self._name = name
        self._clock = clock
        self._runner: Runner | None = new_runner()
        self._retry_at = Ns(0)
        self._log_at = Ns(0)
        self._unsaid = 0

    @property
    def alive(self) -> bool:
        """Whether there is a runner; any thread may ask."""
        return self._runner is not None

    def query(self, context: Columns) -> Hidden:
        """Run the query tower; again on a new runner if the old one is found dead."""
        return self._twice(lambda runner: runner.query(context))

    def candidates(self, pieces: Sequence[Piece]) -> None:
        """Score pieces; one piece alone again on a new runner if the old one is found dead.

        Several are tried again one by one by the caller, since one of them may be what kills.
        """
        if len(pieces) == 1:
            self._twice(lambda runner: runner.candidates(pieces))
        else:
            self._once(lambda runner: runner.candidates(pieces))

    def revive(self) -> bool:
        """Make a new runner if there is none, at most once a second; return whether there is one."""
        if self._runner is not None:
            return True
        now = self._clock.now()
        if now < self._retry_at:
            return False
        try:
            self._runner = self._new_runner()
        except Exception as error:  # noqa: BLE001 - tried again later
            _log.error("model %s: no new runner: %s", self._name, error)
            self._retry_at = Ns(self._clock.now() + _PAUSE)
            return False
        _log.warning("model %s: a new runner took the place of a dead one", self._name)
        return True

    def failed(self, what: str, error: Exception) -> None:
        """Log a failure in one line, at most one a second."""
        now = self._clock.now()
        if now < self._log_at:
            self._unsaid += 1
            return
        self._log_at = Ns(now + _PAUSE)
        more, self._unsaid = self._unsaid, 0
        kind = type(error).__name__
        # Where it failed would fill the disk; it is there for who asks for it.
        _log.error(
            "model %s: %s failed: %s: %s (%d more since)", self._name, what, kind, error, more
        )
        _log.debug("model %s: where it failed", self._name, exc_info=error)

    def close(self) -> None:
        """Close the runner, if there is one."""
        if self._runner is not None:
            self._runner.close()

    def _once(self, call: Callable[[Runner], T]) -> T:
        if not self.revive() or self._runner is None:
            raise RunnerDeadError("the model has no runner at present")
        try:
            return call(self._runner)
        except Exception as error:
            if _is_death(error):
                self._bury(error)
            raise

    def _twice(self, call: Callable[[Runner], T]) -> T:
        try:
            return self._once(call)
        except Exception:
            if self._runner is not None or not self.revive():
                raise
        return self._once(call)

    def _bury(self, error: Exception) -> None:
        dead, self._runner = self._runner, None
        _log.error("model %s: a runner died: %s", self._name, error)
        try:
            if dead is not None:
                dead.close()
        except Exception as second:  # noqa: BLE001 - it is dead already
            _log.warning("model %s: closing a dead runner: %s", self._name, second)


def _is_death(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError | EOFError):
            return True
        error = error.__cause__
    return False
