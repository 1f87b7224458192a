"""Load balancers: to which machine of a fleet a query is sent."""

# ruff: noqa: ARG002 - a seam shows more than one balancer looks at

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

import numpy as np

from headway.core import UsageError
from headway.simulate.member import Member

_DRAWS = 4096
_SLACK = 64
_SHORTLIST = 3


class Balancer:
    """Sends queries to members; told which there are and when one's load changes.

    Attributes:
        members: that take queries, in any order.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.members: list[Member] = []
        self._places: dict[Member, int] = {}
        self._rng = rng
        self._draws: list[float] = []

    def joined(self, member: Member) -> None:
        """A member takes queries from now on."""
        self._places[member] = len(self.members)
        self.members.append(member)

    def left(self, member: Member) -> None:
        """A member takes no queries any more; it has joined before."""
        place, last = self._places.pop(member), self.members.pop()
        if last is not member:
            self.members[place], self._places[last] = last, place

    def changed(self, member: Member) -> None:
        """A member that takes queries has other ones than before."""

    def pick(self, size: int, now: int) -> Member:
        """Return who gets a query of that size; there is at least one member."""
        raise NotImplementedError

    def any_member(self) -> Member:
        """Return one at random."""
        # Drawn in advance: one number at a time would cost more than all the rest.
        if not self._draws:
            self._draws = self._rng.random(_DRAWS).tolist()
        return self.members[int(self._draws.pop() * len(self.members))]


class Random(Balancer):
    """Any of them, all alike."""

    def pick(self, size: int, now: int) -> Member:
        """Return one at random."""
        return self.any_member()


class RoundRobin(Balancer):
    """One after the other."""

    _next = 0

    def pick(self, size: int, now: int) -> Member:
        """Return the one whose turn it is."""
        self._next = (self._next + 1) % len(self.members)
        return self.members[self._next]


class PowerOfTwo(Balancer):
    """The better of two drawn at random (Mitzenmacher, IEEE TPDS 2001)."""

    def pick(self, size: int, now: int) -> Member:
        """Return the one with fewer unanswered candidates."""
        one, other = self.any_member(), self.any_member()
        return one if one.candidates <= other.candidates else other


class ShortestQueue(Balancer):
    """The one with the fewest candidates waiting and running, as counted at the front door.

    A query counts until it is answered. Among equals it is the one that nothing was sent to or
    came back from for longest. Costs O(log members) per query.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._ranking = _Ranking()

    def joined(self, member: Member) -> None:
        """Rank it."""
        super().joined(member)
        self._ranking.put(member)

    def left(self, member: Member) -> None:
        """Rank it no longer."""
        super().left(member)
        self._ranking.drop(member)

    def changed(self, member: Member) -> None:
        """Rank it anew."""
        self._ranking.put(member)

    def pick(self, size: int, now: int) -> Member:
        """Return the first of the ranking."""
        return self._ranking.first()


class LeastExpected(Balancer):
    """The one whose own scheduler predicts the earliest finish.

    Asked are, of each kind of machine, the three with the fewest unanswered candidates: within
    a kind that order is nearly the order of the predictions, so that a large fleet costs no
    more than a small one; what remains, such as one machine being slower than its like, the
    predictions tell.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self._kinds: dict[int, _Ranking] = {}

    def joined(self, member: Member) -> None:
        """Rank it among its like."""
        super().joined(member)
        self._kinds.setdefault(member.kind, _Ranking()).put(member)

    def left(self, member: Member) -> None:
        """Rank it no longer."""
        super().left(member)
        self._kinds[member.kind].drop(member)

    def changed(self, member: Member) -> None:
        """Rank it anew."""
        self._kinds[member.kind].put(member)

    def pick(self, size: int, now: int) -> Member:
        """Return the best by prediction; the less loaded one where they are equal."""
        best, best_ns = self.members[0], float("inf")
        for ranking in self._kinds.values():
            for member in ranking.few(_SHORTLIST):
                expected = member.expected_ns(size, now)
                if expected < best_ns:
                    best, best_ns = member, expected
        return best


BALANCERS: Mapping[str, Callable[[np.random.Generator], Balancer]] = {
    "random": Random,
    "round-robin": RoundRobin,
    "power-of-two": PowerOfTwo,
    "shortest-queue": ShortestQueue,
    "least-expected-finish": LeastExpected,
}


def make_balancer(name: str, rng: np.random.Generator) -> Balancer:
    """Return the balancer of that name, without members.

    Raises:
        UsageError: if there is none.
    """
    if name not in BALANCERS:
        raise UsageError(f"no balancer is called {name!r}; there are {', '.join(BALANCERS)}")
    return BALANCERS[name](rng)


class _Ranking:
    """Members by unanswered candidates; an outdated entry is passed over when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Member]] = []
        self._serial = 0
        self._size = 0

    def put(self, member: Member) -> None:
        """Enter a member, or enter it anew."""
        self._serial = serial = self._serial + 1
        if member.rank < 0:
            self._size += 1
        member.rank = serial
        heap = self._heap
        heappush(heap, (member.candidates, serial, member))
        if len(heap) > _SLACK + 4 * self._size:
            self._heap = [e for e in heap if e[2].rank == e[1]]
            heapify(self._heap)

    def drop(self, member: Member) -> None:
        """Take a member out."""
        member.rank = -1
        self._size -= 1

    def first(self) -> Member:
        """Return the first one; there must be one."""
        heap = self._heap
        while heap[0][2].rank != heap[0][1]:
            heappop(heap)
        return heap[0][2]

    def few(self, most: int) -> list[Member]:
        """Return the first ones, at most so many."""
        heap = self._heap
        found: list[tuple[int, int, Member]] = []
        while heap and len(found) < most:
            entry = heappop(heap)
            if entry[2].rank == entry[1]:
                found.append(entry)
        for entry in found:
            heappush(heap, entry)
        return [entry[2] for entry in found]
