"""Successive halving: which point is tried next, how far it is taken, and why it is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headway.compress.search_results import WORST, Finish, PointReport, Quality, Speed
from headway.compress.search_settings import Point, SearchSettings

TIME_UP = "time was up"


class Evaluates(Protocol):
    """What a search asks about points; ``Evaluator`` is the real one."""

    def quality(self, point: Point, rung: int) -> Quality:
        """Return what was lost at a rung."""
        ...

    def speed(self, point: Point) -> Speed:
        """Return how fast it is in f32."""
        ...

    def finish(self, point: Point, rung: int) -> Finish:
        """Return how fast it is in the best composition, trained as at a rung."""
        ...


@dataclass(slots=True, eq=False)
class _State:
    """What is known of a point so far: its best quality, and at which rung that was."""

    point: Point
    rung: int | None = None
    best_rung: int = 0
    quality: Quality | None = None
    speed: Speed | None = None
    finish: Finish | None = None
    dropped: str = ""

    @property
    def over(self) -> float:
        return WORST if self.quality is None else self.quality.over

    @property
    def fits(self) -> bool:
        return self.over <= 1

    @property
    def good(self) -> bool:
        """Whether it got to the end and is expected to pass."""
        return self.fits and self.finish is not None and bool(self.finish.composition)

    def report(self) -> PointReport:
        return PointReport(
            name=self.point.name,
            point=self.point,
            rung=self.rung,
            best_rung=self.best_rung,
            quality=self.quality,
            speed=self.speed,
            finish=self.finish,
            fits=self.fits,
            dropped=self.dropped,
        )


class Rungs:
    """A search under way.

    At each rung but the last, points are sorted out by loss alone. Loss is taken to rise, and
    f32 latency to fall, where every knob takes more away: a point that lost beyond recovery
    takes all harsher ones with it, and one that fits makes all milder ones too slow to matter.
    So the point tried next is the one that decides most others, and few of them need be tried.
    Of what stands, the harshest are compiled and measured; in lots of one in ``rate``, fastest
    first, they are trained in full and put together in every composition, until as many as there
    are finalists fit and nothing left can be faster.
    """

    def __init__(
        self,
        points: Sequence[Point],
        evaluator: Evaluates,
        settings: SearchSettings,
        spent: Callable[[], float],
        told: Callable[[Sequence[PointReport]], None] | None = None,
    ) -> None:
        """Begin with points of which nothing is known.

        Args:
            points: the original first.
            evaluator: tells of them.
            settings: of the search.
            spent: seconds so far.
            told: called with all points whenever one is known better.
        """
        self._states = {point: _State(point) for point in points}
        self._evaluator = evaluator
        self._settings = settings
        self._spent = spent
        self._told = told
        self.stopped = "nothing left can be faster"

    def run(self) -> list[PointReport]:
        """Search until nothing left can be faster, or the budget is spent."""
        original = next(iter(self._states.values()))
        self._try(original, 0)
        self._finish(original)
        last = self._settings.last
        for rung in range(last):
            # Each rung leaves time to the next, so that something gets to the end.
            self._sift(rung, self._settings.budget_s * (rung + 1) / (last + 1))
        self._race()
        for state in self._open():
            state.dropped = self._behind(state, self._settings.finalists) or TIME_UP
        return self.reports()

    def reports(self) -> list[PointReport]:
        """Return what is known of every point."""
        return [state.report() for state in self._states.values()]

    def _open(self) -> list[_State]:
        """Return the points that were neither dropped nor taken to the end."""
        return [s for s in self._states.values() if not s.dropped and s.finish is None]

    def _sift(self, rung: int, until_s: float) -> None:
        """Sort points out by their loss at a rung."""
        while asked := self._undecided(rung):
            if self._spent() > until_s:
                self.stopped = TIME_UP
                return
            state = _deciding(asked)
            self._try(state, rung)
            limit = self._settings.recover[rung]
            if state.over > limit:
                self._give_up(state, limit, f"at rung {rung}")

    def _undecided(self, rung: int) -> list[_State]:
        """Return the points worth a try at a rung.

        What fits already needs no more training, which does not always help; what was not tried
        at the rung before is slower than something that fits.
        """
        return [
            s
            for s in self._open()
            if not s.fits and s.rung == (rung - 1 if rung else None) and not self._behind(s, 1)
        ]

    def _give_up(self, state: _State, limit: float, where: str) -> None:
        """Drop a point that lost too much, and all harsher ones that did no better so far."""
        state.dropped = f"lost {state.over:.1f} margins {where}, limit {limit:g}"
        for other in self._open():
            if other.point.harsher(state.point) and other.over > limit:
                other.dropped = f"harsher than '{state.point.name}', which lost too much"

    def _behind(self, state: _State, most: int) -> str:
        """Return which points are faster and fit, if there are so many, else an empty string."""
        above = [
            s
            for s in self._states.values()
            if s.fits and not s.dropped and s.point.faster(state.point)
        ]
        if len(above) < most:
            return ""
        return f"slower than '{above[-1].point.name}', which fits as well"

    def _race(self) -> None:
        """Take the fastest points to the end, a lot at a time."""
        while pool := [s for s in self._open() if self._may_win(s)]:
            lot = self._front(pool)
            for state in lot if len(lot) > 1 else ():  # a single one need not be compared
                if not self._in_time():
                    return
                self._measure(state)
            lot = sorted((s for s in lot if self._may_win(s)), key=_ratio)
            for state in lot[: -(-len(lot) // self._settings.rate)]:
                if not self._in_time():
                    return
                if self._may_win(state):
                    self._complete(state)

    def _complete(self, state: _State) -> None:
        if state.rung is None:
            self._try(state, 0)
        if not state.fits:
            self._try(state, self._settings.last)
        if state.fits:
            self._finish(state)
        else:
            self._give_up(state, 1.0, "after all training")

    def _may_win(self, state: _State) -> bool:
        """Tell whether a point could be among the finalists, whatever composition it takes."""
        most = self._settings.finalists
        if self._behind(state, most):
            return False
        good = sorted((s for s in self._states.values() if s.good), key=_ratio)
        if len(good) > most and state.speed is not None:
            bound = _ratio(good[most - 1])
            best = state.speed.ratio * self._gain(state.speed.ratio)
            if best >= bound:
                state.dropped = (
                    f"at best {best:.3f} of the original's cost, finalists have {bound:.3f}"
                )
        return not state.dropped

    def _gain(self, ratio: float) -> float:
        """Return what compositions gain over f32 on the model most like one of a speed.

        The smaller a model, the less there is to gain.
        """
        done = [s.finish for s in self._states.values() if s.finish is not None]
        nearest = min(done, key=lambda finish: abs(finish.f32 - ratio))
        return nearest.fastest / nearest.f32

    def _front(self, pool: Iterable[_State]) -> list[_State]:
        """Return the points that none of the others is harsher than in the same kind of work."""
        states = list(pool)
        return [s for s in states if not any(o.point.faster(s.point) for o in states)]

    def _in_time(self) -> bool:
        if self._spent() <= self._settings.budget_s:
            return True
        self.stopped = TIME_UP
        return False

    def _try(self, state: _State, rung: int) -> None:
        found = self._evaluator.quality(state.point, rung)
        if found.over < state.over or state.quality is None:
            state.quality, state.best_rung = found, rung
        state.rung = rung
        self._tell()

    def _measure(self, state: _State) -> None:
        if state.speed is None:
            state.speed = self._evaluator.speed(state.point)
            self._tell()

    def _finish(self, state: _State) -> None:
        state.finish = self._evaluator.finish(state.point, state.best_rung)
        if not state.finish.composition:
            state.dropped = "no composition of it keeps within the margins"
        self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._told(self.reports())


def finalists(points: Iterable[PointReport], most: int) -> list[PointReport]:
    """Return the points to be judged, fastest first: those that fit and are not the original."""
    good = [p for p in points if p.fits and p.finish is not None and p.finish.composition]
    good = [p for p in good if not p.point.off]
    return sorted(good, key=lambda p: p.ratio or 0.0)[:most]


def _ratio(state: _State) -> float:
    if state.finish is not None:
        return state.finish.ratio
    return float("inf") if state.speed is None else state.speed.ratio


def _deciding(asked: Sequence[_State]) -> _State:
    """Return the point that decides most others whichever way it comes out."""
    points = [state.point for state in asked]

    def decides(state: _State) -> int:
        harsher = sum(other.harsher(state.point) for other in points)
        milder = sum(state.point.faster(other) for other in points)
        return min(harsher, milder)

    return max(asked, key=decides)
