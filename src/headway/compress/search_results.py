"""What is known of each point of a search, and the frontier of them all."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headway.compress.search_settings import Objective, Point

WORST = 1e9
"""In place of infinity, which JSON has not."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """A module against the original on the choosing rows, in f32; of its worst task.

    Attributes:
        delta_auc: with its interval, as ``delta_auc_low`` and ``delta_auc_high``; None where
            outputs were not finite.
        delta_log_loss: likewise.
        over: largest loss in margins, as the judge is expected to bound it on as many rows as
            the test has, with some luck to spare; at most 1 for a point that should pass.
        verdict: on the choosing rows.
        seconds: that the passes and the comparison took.
    """

    delta_auc: float | None
    delta_auc_low: float | None
    delta_auc_high: float | None
    delta_log_loss: float | None
    over: float
    verdict: str
    seconds: float


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """A point compiled in f32, measured turn by turn with the original in f32.

    Attributes:
        ratio: of its cost to the original's: of latency, or of the time a query has at the
            highest rate.
        us: median by query size, and so ``reference_us`` of the original.
        seconds: that compiling and measuring took.
    """

    ratio: float
    us: dict[str, float]
    reference_us: dict[str, float]
    seconds: float


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """A point that fits, or the original, in all compositions.

    Attributes:
        composition: the fastest that may be taken, or an empty string.
        ratio: its cost over that of the original in f32.
        fastest: likewise of the fastest composition, whether or not it may be taken.
        f32: likewise of f32 throughout.
        seconds: that compiling, measuring and comparing took.
    """

    composition: str
    ratio: float
    fastest: float
    f32: float
    seconds: float


class PointReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a point.

    Attributes:
        name: of the point.
        point: its knobs.
        rung: the last at which it was tried; None if it never was.
        best_rung: the one at which it lost least; more training does not always help.
        quality: at that rung.
        speed: None where it was not compiled.
        finish: None where it did not get to the end.
        fits: whether it is expected to pass.
        dropped: why it went no further; empty for those that got to the end.
    """

    name: str
    point: Point
    rung: int | None = None
    best_rung: int = 0
    quality: Quality | None = None
    speed: Speed | None = None
    finish: Finish | None = None
    fits: bool = False
    dropped: str = ""

    @property
    def ratio(self) -> float | None:
        """Measured cost over that of the original in f32; None if it was not measured."""
        if self.finish is not None:
            return self.finish.ratio
        return None if self.speed is None else self.speed.ratio


class SearchReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that a search found, for JSON.

    Attributes:
        objective: by what points are ordered.
        points: every one, also those that were never tried.
        best: name of the fastest that is expected to pass.
        taken: name of the point published; empty before the test rows had their say.
        verdict: of the composition published.
        seconds: that the search took in this session.
        stopped: why it ended.
    """

    objective: Objective
    points: tuple[PointReport, ...]
    best: str
    taken: str = ""
    verdict: str = ""
    seconds: float
    stopped: str

    def frontier(self) -> tuple[PointReport, ...]:
        """Return the points that no other beats in both cost and AUC, fastest first."""
        return frontier(self.points)


def frontier(points: Sequence[PointReport]) -> tuple[PointReport, ...]:
    """Return the points that no other beats in both measured cost and AUC, fastest first."""
    known = [
        (point.ratio, -point.quality.delta_auc, point)
        for point in points
        if point.ratio is not None
        and point.quality is not None
        and point.quality.delta_auc is not None
    ]
    found: list[PointReport] = []
    least = float("inf")
    for _, lost, point in sorted(known, key=lambda each: each[:2]):
        if lost < least:
            found.append(point)
            least = lost
    return tuple(found)
