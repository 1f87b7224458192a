"""One timer for all that may take too long: a timer each would cost more than the wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Patience:
    """Calls an action for what is still there after one to two periods; in one event loop."""

    def __init__(self, period_s: float) -> None:
        self._period = period_s
        self._young: dict[object, Callable[[], None]] = {}
        self._old: dict[object, Callable[[], None]] = {}
        self._ticking = False

    def enter(self, key: object, action: Callable[[], None]) -> None:
        """Begin to wait for a key; the action is called at most once."""
        self._young[key] = action
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._period, self._tick)

    def leave(self, key: object) -> None:
        """End the wait; the action is not called any more."""
        if self._young.pop(key, None) is None:
            self._old.pop(key, None)

    def _tick(self) -> None:
        due, self._old, self._young = self._old, self._young, {}
        self._ticking = bool(self._old)
        if self._ticking:
            asyncio.get_running_loop().call_later(self._period, self._tick)
        for action in due.values():
            action()
