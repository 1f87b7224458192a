"""How long how many machines of each kind were paid for, and were on."""

from __future__ import annotations

from collections.abc import Sequence

from headway.simulate.member import MachineKind


class Account:
    """Sums of machine time by kind, in nanoseconds.

    Attributes:
        paid: machines at present, from their order to their end, start-up and repair included.
        live: machines at present that take or still work on queries.
        paid_ns, live_ns: those summed over time.
        worker_ns: workers of live machines summed over time.
        most: machines paid for at the same time.
    """

    def __init__(self, kinds: Sequence[MachineKind]) -> None:
        self._workers = [kind.workers for kind in kinds]
        self._now = 0
        self.paid, self.live = [0] * len(kinds), [0] * len(kinds)
        self.paid_ns, self.live_ns = [0] * len(kinds), [0] * len(kinds)
        self.worker_ns = [0] * len(kinds)
        self.most = 0

    def advance(self, now: int) -> None:
        """Count the time until now."""
        passed, self._now = now - self._now, now
        for kind, workers in enumerate(self._workers):
            self.paid_ns[kind] += passed * self.paid[kind]
            self.live_ns[kind] += passed * self.live[kind]
            self.worker_ns[kind] += passed * self.live[kind] * workers

    def change(self, kind: int, now: int, *, paid: int = 0, live: int = 0) -> None:
        """From now on there are so many more of them, or fewer."""
        self.advance(now)
        self.paid[kind] += paid
        self.live[kind] += live
        self.most = max(self.most, sum(self.paid))
