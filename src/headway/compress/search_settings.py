"""What the search looks through, and by what it chooses."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.compress.passes import DistilSettings, LightweightSettings, PruneSettings, Recipe
from headway.core import Sla, UsageError, check_fields

Share = Annotated[float, Meta(gt=0.0, le=1.0)]
Shares = Annotated[tuple[Share, ...], Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
Above = Annotated[float, Meta(gt=0.0)]
Objective = Literal["latency", "lbt"]
_SHARES = ("table_energy", "layer_energy", "width", "flops")


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One setting of every knob; 1 leaves a part as it is.

    Attributes:
        table_energy: of ``LightweightSettings``.
        layer_energy: likewise.
        width: likewise.
        flops: of ``PruneSettings``.
        multiple: that pruned widths are multiples of.
    """

    table_energy: float = 1.0
    layer_energy: float = 1.0
    width: float = 1.0
    flops: float = 1.0
    multiple: int = 16

    @property
    def name(self) -> str:
        """What people call it: the knobs that are not off."""
        shown = {
            "tables": self.table_energy,
            "layers": self.layer_energy,
            "width": self.width,
            "flops": self.flops,
        }
        parts = [f"{name} {value:g}" for name, value in shown.items() if value < 1]
        if self.flops < 1 and self.multiple != Point().multiple:
            parts.append(f"by {self.multiple}")
        return ", ".join(parts) or "original"

    @property
    def off(self) -> bool:
        """Whether it leaves the model as it is."""
        return all(getattr(self, name) == 1 for name in _SHARES)

    def harsher(self, other: Point) -> bool:
        """Tell whether it takes more away than another in some knobs, and less in none."""
        own = [(getattr(self, name), getattr(other, name)) for name in _SHARES]
        own.append((-self.multiple, -other.multiple))
        return self != other and all(a <= b for a, b in own)

    def faster(self, other: Point) -> bool:
        """Tell whether it is harsher, and so that its kernels have less work of the same kind.

        Thin products are another kind of work, and so are widths that kernels like less.
        """
        same = self.layer_energy == other.layer_energy
        return same and self.multiple == other.multiple and self.harsher(other)


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values of each knob, 1 for off; every combination is a point."""

    table_energy: Shares = (1.0, 0.999, 0.99)
    layer_energy: Shares = (1.0, 0.98)
    width: Shares = (1.0,)
    flops: Shares = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.15, 0.1, 0.07)
    multiple: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (16,)

    def points(self) -> tuple[Point, ...]:
        """Return all points, the original first; those that come to the same once."""
        values = [getattr(self, name) for name in self.__struct_fields__]
        found = {Point(): None}
        for each in product(*values):
            point = Point(**dict(zip(self.__struct_fields__, each, strict=True)))
            if point.flops == 1:
                point = msgspec.structs.replace(point, multiple=Point().multiple)
            found[point] = None
        return tuple(found)


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how long is searched, and for what.

    Attributes:
        space: the points.
        lightweight: the pass's settings besides the knobs.
        prune: likewise; of these ``multiple`` is a knob.
        rungs: training at each rung after the first, which has none; the passes leave refitted
            weights, so an untrained model tells much. Widths do not change by training.
        recover: for each rung but the last, loss in margins from which on a point is given up.
            Training makes up for much of what is lost without it.
        rate: of the points that stand after the rungs before, one in so many, the fastest, go
            on to the last rung at a time.
        finalists: points that may be judged on the test rows; they share the guard's error.
        objective: lowest latency over ``OptimizeSettings.sizes``, or highest latency-bounded
            throughput of one worker.
        sla: that throughput is bounded by.
        budget_s: seconds after which nothing new is begun; what is then the best is judged.
        measure_s: seconds of measuring for one point, the original beside it.
        rounds: bootstrap resamples on the choosing rows.
        seed: of all that is drawn.
    """

    space: Space = Space()
    lightweight: LightweightSettings = LightweightSettings()
    prune: PruneSettings = PruneSettings()
    rungs: Annotated[tuple[DistilSettings, ...], Meta(min_length=1)] = (
        DistilSettings(rows=32_768, batch_size=1024),
        DistilSettings(epochs=3, batch_size=1024),
    )
    recover: tuple[Above, ...] = (12.0, 3.0)
    rate: Annotated[int, Meta(ge=2)] = 3
    finalists: Positive = 2
    objective: Objective = "latency"
    sla: Sla = Sla()
    budget_s: Above = 900.0
    measure_s: Above = 1.0
    rounds: Annotated[int, Meta(ge=200)] = 200
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)
        if len(self.recover) != len(self.rungs):
            raise UsageError(
                f"search.recover has {len(self.recover)} values for {len(self.rungs)} rungs with "
                "training; give one for each rung but the last, the untrained one counted"
            )

    @property
    def last(self) -> int:
        """The last rung; the first is 0."""
        return len(self.rungs)

    def recipe(self, point: Point, rung: int) -> Recipe:
        """Return the passes of a point at a rung, the first of which trains nothing."""
        light = min(point.table_energy, point.layer_energy, point.width) < 1
        return Recipe(
            lightweight=msgspec.structs.replace(
                self.lightweight,
                table_energy=point.table_energy,
                layer_energy=point.layer_energy,
                width=point.width,
            )
            if light
            else None,
            prune=msgspec.structs.replace(self.prune, flops=point.flops, multiple=point.multiple)
            if point.flops < 1
            else None,
            distil=self.rungs[rung - 1] if rung and not point.off else None,
        )
