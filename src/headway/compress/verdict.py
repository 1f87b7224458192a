"""Compositions before the guard, on rows that chose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from headway.bundle import Choice, GuardEntry
from headway.compress.checks import shared_rows
from headway.compress.choose import Scored, Trial
from headway.compress.composition import Composition
from headway.compress.guard import Evidence, GuardSettings, evidence_of_tasks, judge, worst
from headway.compress.guard_slices import find_slices
from headway.compress.rows import score_dataset
from headway.data import Dataset


@dataclass(frozen=True, slots=True)
class Step:
    """A verdict on the way from the model to the bundle.

    Attributes:
        name: of the composition.
        guard: its verdict on the test rows.
        claim: whether this verdict was sought to publish the composition; the others are for
            information and have no say.
    """

    name: str
    guard: GuardEntry
    claim: bool


class Judge:
    """Holds the test rows; gives each composition one verdict, always the same."""

    def __init__(
        self,
        test: Scored,
        settings: GuardSettings,
        looks: int,
        rng: np.random.Generator,
        train: Dataset | None = None,
    ) -> None:
        """Declare how often a verdict may be sought.

        Args:
            test: rows that chose nothing.
            settings: margins and confidence.
            looks: compositions that may be judged as claims; they share the guard's error.
            rng: source of the bootstrap.
            train: what the model learnt from, to find copied rows and new users.
        """
        self._test = test
        self._settings = settings
        self._looks = looks
        self._rng = rng
        self._slices = find_slices(test.rows, train, settings)
        self._shared = None if train is None else shared_rows(test.rows, train)
        self._verdicts: dict[str, GuardEntry] = {}

    def verdict(self, trial: Trial) -> GuardEntry:
        """Return the verdict on what was tried."""
        return self.of(trial.composition)

    def of(self, composition: Composition) -> GuardEntry:
        """Return the verdict on a composition, that of its worst task."""
        name = composition.name
        if name not in self._verdicts:
            rows = self._test.rows.narrowed(composition.model.schema)
            raw = score_dataset(composition.model.runner(), rows)
            pieces = evidence_of_tasks(
                rows.schema, rows.labels, self._test.raw, raw, self._test.groups
            )
            self._verdicts[name] = worst([self._judged(piece, composition) for piece in pieces])
        return self._verdicts[name]

    def _judged(self, evidence: Evidence, composition: Composition) -> GuardEntry:
        return judge(
            replace(evidence, slices=self._slices, shared_rows=self._shared),
            self._settings,
            self._rng,
            looks=self._looks,
            proven_equal=composition.exact,
        )


def take(
    order: Sequence[Trial], court: Judge, *, allow_unproven: bool
) -> tuple[Trial, list[Trial]]:
    """Return the composition to publish, and all that were judged on the way, in order.

    That is the first to pass; with ``allow_unproven`` the first that does not fail. The last of
    the order is taken whatever its verdict.
    """
    accepted = {"pass", "not proven"} if allow_unproven else {"pass"}
    judged: list[Trial] = []
    for trial in order:
        judged.append(trial)
        if court.verdict(trial).verdict in accepted:
            break
    return judged[-1], judged


def steps(trials: Sequence[Trial], judged: Sequence[Trial], court: Judge) -> tuple[Step, ...]:
    """Return the verdicts from f32 throughout to the composition taken, which stands last.

    Beside the claims, f32 throughout is judged for information, and of the model taken f32 and
    the composition with only its tables rounded.
    """
    taken = judged[-1].composition
    shown = [t for t in trials if t.composition.exact]
    for tables in dict.fromkeys(("f32", taken.tables)):
        shown += [
            t
            for t in trials
            if not t.composition.exact
            and t.composition.variant == taken.variant
            and (t.composition.tables, t.composition.dense) == (tables, "f32")
        ]
    before = [t for t in shown if t not in judged]
    return tuple(Step(t.name, court.verdict(t), claim=t in judged) for t in [*before, *judged])


def explained(trials: Sequence[Trial], judged: Sequence[Trial], court: Judge) -> tuple[Choice, ...]:
    """Return every trial with the reason why it was taken or not."""
    taken = judged[-1]
    return tuple(
        Choice(
            name=trial.name,
            tables=trial.composition.tables,
            dense=trial.composition.dense,
            latency_us=next(iter(trial.latency_us.values())),
            size_bytes=trial.composition.size_bytes,
            max_error=trial.max_error if isfinite(trial.max_error) else None,
            chosen=trial is taken,
            reason=_reason(trial, taken, judged, court),
        )
        for trial in trials
    )


def _reason(trial: Trial, taken: Trial, judged: Sequence[Trial], court: Judge) -> str:
    if trial in judged:
        entry = court.verdict(trial)
        place = "taken" if trial is taken else "not taken"
        return f"{place}, {entry.verdict}: {entry.reason}"
    if trial.rejected:
        return trial.rejected
    if trial.cost > taken.cost:
        return f"{trial.cost / taken.cost:.2f} times as slow as the one taken"
    if trial.composition.size_bytes > taken.composition.size_bytes:
        return "as fast as the one taken, but larger"
    return "not judged: the attempts were used up"
