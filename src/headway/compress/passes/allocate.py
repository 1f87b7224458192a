"""Which units go: the least loss for the operations they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.compress.passes.units import Site, Units

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Budget:
    """What must be left.

    Attributes:
        flops: share of the operations, both as the model counts them for a candidate and with
            the query's work divided among ``query_rows`` candidates.
        query_rows: candidates of a query.
        multiple: widths are multiples of it where they are that large.
        least: share of each site's units that stays in any case.
    """

    flops: float
    query_rows: float = 256.0
    multiple: int = 16
    least: float = 0.125


def allocate(
    units: Units, scores: Floats, sites: Sequence[Site], budget: Budget
) -> NDArray[np.bool_]:
    """Return by id which units stay.

    Blocks of units go one after another, each time the one whose units matter least for the
    operations that go with them at the widths left, until both counts are within the budget or
    no site may lose more.

    Args:
        units: of the model.
        scores: by id, what each unit is worth; not negative.
        sites: those that may lose units.
        budget: when to stop.
    """
    kept = np.ones(units.count, np.bool_)
    counts = [_Count(units, sites, 1.0), _Count(units, sites, budget.query_rows)]
    queues = [_Queue(site, scores, budget) for site in sites]
    while any(queues):
        excess = [count.share > budget.flops for count in counts]
        if not any(excess):
            break
        best = min(
            (place for place, queue in enumerate(queues) if queue),
            key=lambda place: _price(queues[place], place, counts, excess),
        )
        block = queues[best].take()
        kept[block] = False
        for count in counts:
            count.remove(best, len(block))
    return kept


class _Queue:
    """The units of a site that may go, the least worth first, in blocks."""

    def __init__(self, site: Site, scores: Floats, budget: Budget) -> None:
        self._order = site.ids[np.argsort(scores[site.ids], kind="stable")]
        self._worth = np.sort(scores[site.ids], kind="stable")
        size = len(site)
        least = max(1, int(np.ceil(size * budget.least)))
        if size > budget.multiple:
            least = -(-least // budget.multiple) * budget.multiple
        # The first block leaves a multiple; what is smaller than one goes unit by unit.
        step = budget.multiple if size > budget.multiple else 1
        first = size % step or step
        self._bounds = [0, *range(first, size - least + 1, step)]
        self._at = 0

    def __bool__(self) -> bool:
        return self._at + 1 < len(self._bounds)

    @property
    def block(self) -> slice:
        """The next units to go."""
        return slice(self._bounds[self._at], self._bounds[self._at + 1])

    @property
    def worth(self) -> float:
        """What they are worth together."""
        return float(self._worth[self.block].sum())

    def take(self) -> NDArray[np.int64]:
        """Return the next units to go, and go on."""
        block = self._order[self.block]
        self._at += 1
        return block


class _Count:
    """Operations of the products, as units go from sites whose units are all alike."""

    def __init__(self, units: Units, sites: Sequence[Site], query_rows: float) -> None:
        self._sites = sites
        times, inner, outer = [], [], []
        self._inner = np.zeros((len(sites), len(units.products)))
        self._outer = np.zeros((len(sites), len(units.products)))
        owner = np.full(units.count + 1, -1)
        for place, site in enumerate(sites):
            owner[site.ids] = place
        for column, product in enumerate(units.products):
            weights = np.where(product.late, 1.0, 1.0 / query_rows)
            times.append(2.0 * product.times)
            inner.append(weights.sum())
            outer.append(float(len(product.outer)))
            for which, add, into in (
                (owner[product.inner], weights, self._inner),
                (owner[product.outer], np.ones(len(product.outer)), self._outer),
            ):
                known = which >= 0
                np.add.at(into[:, column], which[known], add[known])
        sizes = np.array([len(site) for site in sites], np.float64)[:, None]
        self._inner /= np.maximum(sizes, 1)
        self._outer /= np.maximum(sizes, 1)
        self._times, self._in, self._out = np.array(times), np.array(inner), np.array(outer)
        self._start = self._total(self._in, self._out)

    @property
    def share(self) -> float:
        """What is left, as a share of what there was."""
        return self._total(self._in, self._out) / self._start

    def gain(self, place: int, count: int) -> float:
        """Return the share that goes with some units of a site."""
        less = self._total(
            self._in - count * self._inner[place], self._out - count * self._outer[place]
        )
        return (self._total(self._in, self._out) - less) / self._start

    def remove(self, place: int, count: int) -> None:
        """Take units of a site away."""
        self._in = self._in - count * self._inner[place]
        self._out = self._out - count * self._outer[place]

    def _total(self, inner: Floats, outer: Floats) -> float:
        return float((self._times * inner * outer).sum())


def _price(queue: _Queue, place: int, counts: Sequence[_Count], excess: Sequence[bool]) -> float:
    """Return what the next block of a site is worth, for the operations still to be saved."""
    block = queue.block
    gain = sum(
        count.gain(place, block.stop - block.start)
        for count, over in zip(counts, excess, strict=True)
        if over
    )
    return queue.worth / max(gain, 1e-12)
