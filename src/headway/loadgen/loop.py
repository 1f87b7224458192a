"""The fastest event loop there is, woken to a tenth of a millisecond."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from headway.core import to_seconds

T = TypeVar("T")

_CLOCK_MONOTONIC = 1
_SECOND = 1_000_000_000


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in a new event loop, uvloop's where it exists, and return its result."""
    if find_spec("uvloop") is None:
        return asyncio.run(main)
    from uvloop import new_event_loop  # noqa: PLC0415 - not made for every system

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


class Alarm(Protocol):
    """Calls back once per ``set``."""

    def set(self, delay_ns: int) -> None:
        """Call back after ``delay_ns``, at once if it is not positive; replaces an earlier set."""
        ...

    def close(self) -> None:
        """Call back no more."""
        ...


def new_alarm(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Alarm:
    """Return the most precise alarm this system offers."""
    kind = KernelAlarm if sys.platform == "linux" else LoopAlarm
    return kind(loop, callback)


class LoopAlarm:
    """The event loop's own timer: portable, and as precise as the loop is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, delay_ns: int) -> None:
        """Call back after ``delay_ns``."""
        self.close()
        self._handle = self._loop.call_later(max(0.0, to_seconds(delay_ns)), self._callback)

    def close(self) -> None:
        """Call back no more."""
        if self._handle is not None:
            self._handle.cancel()


class KernelAlarm:
    """A Linux timerfd that the loop watches like a socket.

    epoll, under asyncio and uvloop alike, rounds its waiting time up to a millisecond; polling
    for the rest would take the processor from a server on the same machine.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._libc = ctypes.CDLL(None, use_errno=True)
        # TFD_NONBLOCK and TFD_CLOEXEC have the values of the flags of open().
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "cannot make a timer")
        loop.add_reader(self._fd, self._ring)

    def set(self, delay_ns: int) -> None:
        """Call back after ``delay_ns``."""
        # Zero would switch the timer off.
        seconds, nanoseconds = divmod(max(1, delay_ns), _SECOND)
        wanted = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        if self._libc.timerfd_settime(self._fd, 0, wanted, None):
            raise OSError(ctypes.get_errno(), "cannot set a timer")

    def close(self) -> None:
        """Call back no more, and give the timer back."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew between the event and this call
            return
        self._callback()
