"""How fast candidates are scored, learnt from finished work."""

from __future__ import annotations

from headway.core import Ns

_FORGET_SHIFT = 6


class ServiceRate:
    """The best rate of one worker seen of late; integers only, so equal on every machine.

    The best and not the mean, because it is used to refuse queries: a query is turned away only
    if it would be late even at that rate. Every observation ages the best by 1/64, so that a
    machine that became slower is believed after some dozens of batches.
    """

    def __init__(self) -> None:
        self._candidates = 0
        self._busy = 1

    def observe(self, candidates: int, busy: int) -> None:
        """Take in that a worker scored ``candidates`` in ``busy`` nanoseconds."""
        busy = max(busy, 1)
        self._busy += max(self._busy >> _FORGET_SHIFT, 1)
        if candidates * self._busy >= self._candidates * busy:
            self._candidates, self._busy = candidates, busy

    def time_for(self, candidates: int, workers: int) -> Ns | None:
        """Return how long so many workers need at the best rate, or None before any work."""
        if self._candidates == 0:
            return None
        return Ns(candidates * self._busy // (self._candidates * workers))
