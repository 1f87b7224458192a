"""Integer-nanosecond time, and the only place that reads a clock."""

from __future__ import annotations

import time
from typing import NewType, Protocol

Ns = NewType("Ns", int)
"""A moment or a duration in nanoseconds; moments count from an arbitrary origin."""


def from_seconds(seconds: float) -> Ns:
    """Return ``seconds`` as nanoseconds, rounded to the nearest."""
    return Ns(round(seconds * 1e9))


def from_ms(milliseconds: float) -> Ns:
    """Return ``milliseconds`` as nanoseconds, rounded to the nearest."""
    return Ns(round(milliseconds * 1e6))


def to_seconds(duration: int) -> float:
    """Return a duration in nanoseconds as seconds."""
    return duration / 1e9


def to_ms(duration: int) -> float:
    """Return a duration in nanoseconds as milliseconds."""
    return duration / 1e6


class Clock(Protocol):
    """Tells the time; never goes backwards."""

    def now(self) -> Ns:
        """Return the present moment."""
        ...


class MonotonicClock:
    """The machine's monotonic clock, unmoved by changes of the wall clock."""

    def now(self) -> Ns:
        """Return nanoseconds since an arbitrary origin, the same for all processes of a boot."""
        return Ns(time.monotonic_ns())


class ManualClock:
    """A clock that moves only when told; for tests and simulation."""

    def __init__(self, start: Ns = Ns(0)) -> None:
        self._now = start

    def now(self) -> Ns:
        """Return the moment last set."""
        return self._now

    def advance(self, duration: int) -> Ns:
        """Move forward by ``duration`` nanoseconds and return the new moment.

        Raises:
            ValueError: if ``duration`` is negative.
        """
        if duration < 0:
            raise ValueError(f"a clock cannot go back by {-duration} ns")
        self._now = Ns(self._now + duration)
        return self._now


def unix_seconds() -> int:
    """Return the wall-clock time as whole seconds since 1970, for provenance only."""
    return int(time.time())
