"""A trained module and its data become a judged bundle and a report in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from headway import __version__
from headway.bundle import Choice, GuardEntry, Provenance
from headway.compress.chain import Chain, check_sizes, measure_chain
from headway.compress.given import Parts, check_model, check_parts, output_doubts, set_aside
from headway.compress.job import Job, OptimizeResult, Progress
from headway.compress.passes import DistilSettings, LightweightSettings, PruneSettings, Recipe
from headway.compress.pipeline import optimize_model
from headway.compress.publish import check_publishable, publish
from headway.compress.report import PassSummary, Summary, summarise
from headway.compress.settings import OptimizeSettings
from headway.core import MonotonicClock, NotProvenError, Schema, Sla, UsageError, parse_sla
from headway.core import unix_seconds as now
from headway.data import Dataset, Transforms

STANDARD_PASSES = Recipe(
    lightweight=LightweightSettings(), prune=PruneSettings(), distil=DistilSettings()
)
Draw = Callable[[Summary], str]


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What came of ``optimize``.

    Attributes:
        summary: everything that is told, as plain values.
        result: the parts of the bundle, and the model that each pass left.
        bundle: where it was written, for ``headway.load``; None if it was not.
        refused: why a bundle that was asked for was not written, or an empty string.
        page: the report as HTML; None where nothing was there to draw it.
    """

    summary: Summary
    result: OptimizeResult
    bundle: Path | None
    refused: str
    page: str | None

    @property
    def guard(self) -> GuardEntry:
        """The verdict on the composition taken."""
        return self.summary.guard

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every composition tried, and why it was taken or not."""
        return self.summary.choices

    @property
    def passes(self) -> tuple[PassSummary, ...]:
        """What each pass over the module did."""
        return self.summary.passes

    @property
    def chain(self) -> Chain | None:
        """What each prefix of the passes brings; None if it was not measured."""
        return self.summary.chain

    def to_json(self) -> str:
        """Return the summary as one JSON object, as ``headway optimize --json`` prints it."""
        return msgspec.json.format(msgspec.json.encode(self.summary), indent=2).decode()

    def save_html(self, path: str | Path) -> Path:
        """Write the report as one HTML page that opens offline.

        Raises:
            UsageError: if there is none.
        """
        if self.page is None:
            raise UsageError("this report has no page; call headway.optimize, which draws one")
        Path(path).write_text(self.page)
        return Path(path)

    def check(self, *, allow_unproven: bool = False) -> None:
        """Accept a result that may be published.

        Raises:
            NotProvenError: if the guard did not pass; with ``allow_unproven`` only if it
                failed.
        """
        self.result.check(allow_unproven=allow_unproven)


def optimize(  # noqa: PLR0913 - the whole call in one place; all but the first two have names
    model: nn.Module,
    schema: Schema,
    *,
    train: Dataset,
    valid: Dataset,
    test: Dataset,
    choose: Dataset | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    transforms: Transforms | None = None,
    sla: str | Sla = "p95=25ms",
    passes: Recipe | None = None,
    settings: OptimizeSettings | None = None,
    chain: bool = True,
    allow_unproven: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    draw: Draw | None = None,
) -> Report:
    """Make a trained model small and fast, let the guard judge it, and write a bundle.

    Passes over the module leave a smaller one, which is compiled beside the original in several
    precisions; all are measured, and the fastest that the guard passes is taken. Where nothing
    smaller passes, that is the original in f32, compiled and proven equal.

    Args:
        model: trained, float32, on the CPU; ``forward(features)`` takes a dict with a tensor by
            feature (bags: ids and offsets; sequences: ids and mask) and returns raw outputs,
            before any sigmoid, float32 ``[rows, tasks]``. Left in evaluation mode, otherwise as
            it was. Any module will do: its tables are found in its graph.
        schema: features, tables and tasks of the model, and of all parts.
        train: rows the model learnt from; passes observe and train on them.
        valid: rows that chose among epochs, and will again for the smaller model.
        test: rows that judge, and must have chosen nothing; from some 20,000 on.
        choose: rows that choose a composition. By default the queries of ``valid`` are parted at
            random, and half of them are set aside for it.
        out: folder of the bundle, replaced if one is there; by default none is written. Nor is
            it if the guard fails, or proves nothing where a bundle that passed is there.
        name: of the model in a server; by default that of its class.
        transforms: raw features to encoded ones, for the bundle; None where callers encode.
        sla: tail latency that the chain's simulated throughput is bounded by.
        passes: over the module; by default those of ``settings``, or the standard ones where it
            names none. ``Recipe()`` leaves the module as it is.
        settings: compositions, margins, query sizes.
        chain: measure, too, what each pass brings; takes a minute or so more.
        allow_unproven: take the fastest composition that is not proven to lose.
        seed: of all that is drawn.
        progress: called before each stage, and while passes train.
        draw: makes the page of the report; ``headway.optimize`` brings its own.

    Raises:
        UsageError: if an argument is of the wrong kind.
        DataError: if a part has too few rows, one class only or another schema, or the model
            scores NaN or the same for every row; names part and remedy.
        CaptureError: if the model cannot be captured; names the line and the remedy.
    """
    target = parse_sla(sla) if isinstance(sla, str) else sla
    chosen = _settings(settings or OptimizeSettings(), passes)
    if chain:
        check_sizes(chosen)
    rng = np.random.default_rng(seed)
    check_parts({"train": train, "valid": valid, "test": test}, schema)
    if choose is None:
        valid, choose = set_aside(valid, rng)
    parts = Parts(
        schema=schema, train=train, valid=valid, choose=choose, test=test, transforms=transforms
    )
    check_parts({"choose": choose, "valid": valid}, schema)
    check_model(model, schema)
    called = name or type(model).__name__
    job = Job(name=called, model=model, data=parts, provenance=_provenance(model))
    tools = (rng, MonotonicClock())
    doubts = output_doubts(model, test)
    result = optimize_model(job, chosen, tools, progress, allow_unproven=allow_unproven)
    result = replace(result, warnings=(*doubts, *result.warnings))
    measured = (
        measure_chain(job, result.passes, chosen, tools, progress, sla=target) if chain else None
    )
    summary = summarise(result, called, chain=measured)
    page = draw(summary) if draw is not None else None
    where, refused = None, ""
    if out is not None:
        try:
            check_publishable(result, Path(out), allow_unproven=allow_unproven)
            publish(result, Path(out), page)
            where = Path(out)
        except NotProvenError as error:
            refused = str(error)
    told = msgspec.structs.replace(summary, bundle=None if where is None else str(where))
    return Report(told, result, where, refused, page)


def _settings(settings: OptimizeSettings, passes: Recipe | None) -> OptimizeSettings:
    if passes is None:
        passes = settings.passes if settings.passes.passes else STANDARD_PASSES
    return msgspec.structs.replace(settings, passes=passes)


def _provenance(model: nn.Module) -> Provenance:
    return Provenance(
        created_unix=now(),
        headway=__version__,
        model=type(model).__name__,
        details={"made by": "headway.optimize, from the caller's module and data"},
    )
