"""Several models' workloads on one host."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError, from_seconds
from headway.workload.schedule import BLOCK, MOST_QUERIES, Schedule, draw_schedule, stream_schedule
from headway.workload.settings import Workload

_MOST_PARTS = 1000


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model's queries among others'.

    Attributes:
        name: of the model.
        workload: its queries and arrivals.
        share: its part of the rate of all, in proportion to the other parts' shares.
    """

    name: str
    workload: Workload = Workload()
    share: float = 1.0


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Workloads that share a host; ``Schedule.models`` counts them in the order given.

    Attributes:
        parts: one per model.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        """Refuse parts that cannot be told apart or have no share.

        Raises:
            UsageError: naming the part.
        """
        if not 1 <= len(self.parts) <= _MOST_PARTS:
            raise UsageError(f"a mix has 1 to {_MOST_PARTS} parts, not {len(self.parts)}")
        if len(set(self.names)) < len(self.parts):
            raise UsageError(f"the parts of a mix need names of their own: {self.names}")
        for part in self.parts:
            if not 0 < part.share < float("inf"):
                raise UsageError(f"{part.name!r} needs a positive share, not {part.share}")

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, by their number."""
        return tuple(part.name for part in self.parts)

    def draw(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Schedule:
        """Draw every part's schedule from a source of its own and merge them.

        Args:
            rate_qps: mean queries per second of all parts together.
            duration_s: length of the run in seconds.
            rng: source of chance.

        Raises:
            UsageError: as ``draw_schedule``.
            DataError: as ``draw_schedule``.
        """
        if rate_qps * duration_s > MOST_QUERIES:
            raise UsageError(
                f"{rate_qps:g} queries/s for {duration_s:g} s are more than {MOST_QUERIES:,} "
                "queries; lower the rate or the length, or stream the mix"
            )
        drawn = [
            iter([draw_schedule(rate, duration_s, w.draw_sizes, source, w.arrivals)])
            for w, rate, source in self._sources(rate_qps, rng)
        ]
        blocks = list(_merged(drawn, from_seconds(duration_s)))
        nothing = Schedule(np.empty(0, np.int64), np.empty(0, np.int64), from_seconds(duration_s))
        return Schedule(
            intended_ns=np.concatenate([b.intended_ns for b in [nothing, *blocks]]),
            sizes=np.concatenate([b.sizes for b in [nothing, *blocks]]),
            duration_ns=nothing.duration_ns,
            models=np.concatenate([b.models for b in [nothing, *blocks]]),
        )

    def stream(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator, block: int = BLOCK
    ) -> Iterator[Schedule]:
        """Return an iterator over consecutive parts of the merged run, with flat memory.

        Args:
            rate_qps: mean queries per second of all parts together.
            duration_s: length of the run in seconds.
            rng: source of chance.
            block: the most queries in one block; there may be fewer.

        Raises:
            UsageError: as ``stream_schedule``.
            DataError: as ``stream_schedule``.
        """
        own = max(1, block // len(self.parts))
        streams = [
            stream_schedule(rate, duration_s, w.draw_sizes, source, w.arrivals, own)
            for w, rate, source in self._sources(rate_qps, rng)
        ]
        return _merged(streams, from_seconds(duration_s))

    def _sources(
        self, rate_qps: float, rng: np.random.Generator
    ) -> Iterator[tuple[Workload, float, np.random.Generator]]:
        """Yield each part's workload, rate and source of chance."""
        total = sum(part.share for part in self.parts)
        for part, source in zip(self.parts, rng.spawn(len(self.parts)), strict=True):
            yield part.workload, rate_qps * part.share / total, source


_Rows = tuple[NDArray[np.int64], NDArray[np.int64]]


def _merged(streams: list[Iterator[Schedule]], duration_ns: int) -> Iterator[Schedule]:
    """Merge schedules in order of time; at equal times the model named first comes first."""
    held: dict[int, _Rows] = {}
    empty = list(range(len(streams)))
    while True:
        for model in empty:
            block = next((b for b in streams[model] if len(b)), None)
            if block is not None:
                held[model] = (block.intended_ns, block.sizes)
        if not held:
            return
        held = dict(sorted(held.items()))
        # Up to here every part is known.
        known = min(times[-1] for times, _ in held.values())
        ends = {m: int(np.searchsorted(times, known, "right")) for m, (times, _) in held.items()}
        times = np.concatenate([held[m][0][:end] for m, end in ends.items()])
        order = np.argsort(times, kind="stable")
        yield Schedule(
            intended_ns=times[order],
            sizes=np.concatenate([held[m][1][:end] for m, end in ends.items()])[order],
            duration_ns=duration_ns,
            models=np.repeat(np.array(list(ends), np.int16), list(ends.values()))[order],
        )
        held = {m: (held[m][0][end:], held[m][1][end:]) for m, end in ends.items()}
        empty = [m for m, (times, _) in held.items() if not len(times)]
        held = {m: rows for m, rows in held.items() if len(rows[0])}
