"""What is tried when a model is optimised, and by what it is chosen."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from headway.bundle import DensePrecision, TableChoice
from headway.compress.guard import GuardSettings
from headway.compress.passes import Recipe
from headway.core import UsageError

Positive = Annotated[int, Meta(ge=1)]


class OptimizeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compositions, and how one of them is chosen; f32 throughout is always among them.

    Attributes:
        tables: formats of tables that are tried; ``int4-mixed`` is int4 for the tables that
            change outputs little enough, for others int8.
        dense: precisions of dense towers that are tried.
        batch_dependent: also take compositions that score a row differently with other rows in
            its batch (``int8-dynamic``); otherwise they are measured but not taken.
        guard: margins and confidence.
        attempts: compositions that may be judged on the test rows before f32 throughout is
            taken; the guard's error is shared among them, whether or not all are used.
        sizes: query sizes at which latency is measured; the first is shown.
        measure_s: seconds of measuring for all compositions together.
        tie: a composition within this share of the fastest one's latency counts as equally
            fast, and the smallest of those is taken.
        error_limit: largest root mean square change of raw outputs on the choosing rows, as a
            share of their standard deviation.
        equality_limit: largest change of any raw output that the f32 towers may show against
            the model itself, as a share of the standard deviation.
        passes: over the module itself, before it is captured; the smaller model they leave is
            tried beside the original.
        calibration_rows: training rows from which the ranges of activations are taken.
        choose_rows: most rows of the choosing part that are scored.
    """

    tables: tuple[TableChoice, ...] = ("f32", "int8")
    dense: tuple[DensePrecision, ...] = ("f32", "int8", "int8-dynamic")
    batch_dependent: bool = False
    guard: GuardSettings = GuardSettings()
    attempts: Positive = 2
    sizes: tuple[Positive, ...] = (256, 64)
    measure_s: Annotated[float, Meta(gt=0)] = 4.0
    tie: Annotated[float, Meta(ge=0)] = 0.1
    error_limit: Annotated[float, Meta(gt=0)] = 0.1
    equality_limit: Annotated[float, Meta(gt=0)] = 5e-5
    passes: Recipe = Recipe()
    calibration_rows: Positive = 8192
    choose_rows: Positive = 50_000

    def __post_init__(self) -> None:
        """Refuse an empty choice.

        Raises:
            UsageError: if a list is empty.
        """
        for name in ("tables", "dense", "sizes"):
            if not getattr(self, name):
                raise UsageError(f"optimize.{name} is empty; leave it out for the default")
