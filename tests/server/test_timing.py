"""The service times measured before the first query."""

from __future__ import annotations

from collections.abc import Sequence

from tests.server.harness import SCHEMA, LinearRunner, Probe

from headway.core import Columns, Hidden, Ns, Piece
from headway.server.timing import service_times


class Clock:
    """Stands still but for the work that is done."""

    def __init__(self) -> None:
        self.moment = 0

    def now(self) -> Ns:
        return Ns(self.moment)


class Runner(LinearRunner):
    """Takes 60 us for a query tower and 40 us and more for candidates, which empty its caches."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Probe())
        self._clock = clock
        self._last = 1

    def query(self, context: Columns) -> Hidden:
        self._clock.moment += 60_000 if self._last == 1 else 500_000
        return super().query(context)

    def candidates(self, pieces: Sequence[Piece]) -> None:
        self._last = sum(p.stop - p.start for p in pieces)
        self._clock.moment += 39_000 + 1000 * self._last


def test_a_later_chunk_is_never_free_however_slow_the_tower_is_beside_large_queries() -> None:
    clock = Clock()
    service, tower = service_times(lambda: Runner(clock), SCHEMA, clock)
    assert service[0] == (1, 100_000)
    assert tower == 60_000
