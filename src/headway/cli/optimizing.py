"""``headway optimize``: from a config, or a checkpoint, to a bundle with its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from headway import __version__
from headway.bundle import Provenance, read_bundle, write_bundle
from headway.cli.config import Config, read_config
from headway.cli.pages.guard import guard_rows, slice_text
from headway.cli.pages.optimize import build_optimize
from headway.cli.pages.tables import figure_of, interval_of
from headway.cli.results import GuardStep, OptimizeReport
from headway.cli.terminal import Terminal, milliseconds, size
from headway.cli.training import DATA_FINGERPRINT, train_config
from headway.compress import Job, OptimizeResult, OptimizeSettings, optimize_model
from headway.core import (
    BundleError,
    DataError,
    MonotonicClock,
    NotProvenError,
    Plan,
    unix_seconds,
)
from headway.data import Prepared, fingerprint, load_data
from headway.engine import usable_cores
from headway.models import RankingModel, load_checkpoint

_BATCH_CANDIDATES = 512
"""Small queries are put together up to this many candidates when they wait in line."""


def optimize_config(
    path: Path,
    data: Path | None,
    out: Path,
    checkpoint: Path | None,
    terminal: Terminal,
    *,
    allow_unproven: bool,
) -> int:
    """Train or load, optimise, write the bundle; returns the exit code, 3 if not proven.

    A composition that the guard failed is never written, and one that it did not prove never
    replaces a bundle that passed, unless ``allow_unproven``.
    """
    config, model, prepared = _model(path, data, out, checkpoint, terminal)
    result = run_optimize(
        Job(name=config.name, model=model, data=prepared, provenance=_provenance(config)),
        config.optimize,
        config.train.seed,
        terminal,
        allow_unproven=allow_unproven,
    )
    refused: NotProvenError | None = None
    written = False
    try:
        publish(result, out, config.name, terminal, allow_unproven=allow_unproven)
        written = True
        result.check(allow_unproven=allow_unproven)
    except NotProvenError as error:
        refused = error
    _show(summary(result, out, config.name), terminal, written=written)
    if refused is not None:
        terminal.say(f"headway: {refused}")
        return refused.exit_code
    return 0


def optimize_into(
    job: Job, settings: OptimizeSettings, out: Path, seed: int, terminal: Terminal
) -> OptimizeResult:
    """Optimise and write the bundle and its report to ``out``, replacing an older bundle.

    Raises:
        NotProvenError: if the guard failed the result.
    """
    result = run_optimize(job, settings, seed, terminal, allow_unproven=False)
    publish(result, out, job.name, terminal, allow_unproven=True)
    return result


def publish(
    result: OptimizeResult, out: Path, name: str, terminal: Terminal, *, allow_unproven: bool
) -> None:
    """Write the bundle, labelled with its verdict, unless it failed or is the lesser one.

    Raises:
        NotProvenError: if the guard failed the result; or did not prove it while a bundle that
            passed stands at ``out``, and ``allow_unproven`` is not given.
    """
    if result.guard.verdict == "fail":
        result.check()
    if result.guard.verdict == "not proven" and not allow_unproven and _passed(out):
        raise NotProvenError(
            f"the guard says {result.guard.verdict}: {result.guard.reason}; the bundle at "
            f"{str(out)!r} passed and is kept, choose another path or give --allow-unproven "
            "to replace it"
        )
    _write(result, out, name, terminal)


def _passed(path: Path) -> bool:
    try:
        guard = read_bundle(path).manifest.guard
    except BundleError:
        return False
    return guard is not None and guard.verdict == "pass"


def run_optimize(
    job: Job, settings: OptimizeSettings, seed: int, terminal: Terminal, *, allow_unproven: bool
) -> OptimizeResult:
    """Optimise with a progress bar."""
    with terminal.step("optimising") as step:
        result = optimize_model(
            job,
            settings,
            (np.random.default_rng(seed), MonotonicClock()),
            lambda what, done, total: step.at(done, total, what),
            allow_unproven=allow_unproven,
        )
    for warning in result.warnings:
        terminal.say(f"warning: {warning}")
    return result


def guard_steps(result: OptimizeResult) -> list[GuardStep]:
    """Return the verdicts on the way, the taken composition's last."""
    return [GuardStep(name=s.name, guard=s.guard, claim=s.claim) for s in result.steps]


def composition(result: OptimizeResult) -> str:
    """Return the name of the composition taken."""
    return next(choice.name for choice in result.choices if choice.chosen)


def summary(result: OptimizeResult, out: Path, name: str) -> OptimizeReport:
    """Return the result as it is printed."""
    return OptimizeReport(
        bundle=str(out),
        name=name,
        composition=composition(result),
        guard=result.guard,
        steps=guard_steps(result),
        choices=list(result.choices),
        latency_us={
            name: {str(n): value for n, value in by_size.items()}
            for name, by_size in result.latency_us.items()
        },
        original_bytes=result.original_bytes,
        size_bytes=result.size_bytes,
        equality=result.equality,
        notes=list(result.notes),
        warnings=list(result.warnings),
    )


def _model(
    path: Path, data: Path | None, out: Path, checkpoint: Path | None, terminal: Terminal
) -> tuple[Config, RankingModel, Prepared]:
    if checkpoint is None:
        folder = out.with_name(f"{out.name}-checkpoint")
        trained = train_config(path, data, folder, terminal)
        return trained.config, load_checkpoint(folder).model, trained.data
    found = load_checkpoint(checkpoint)
    config = read_config(path, data)
    with terminal.step(f"reading {config.data.reader.path}"):
        prepared = load_data(config.data, path.parent)
    if found.facts.get(DATA_FINGERPRINT) != fingerprint(prepared):
        raise DataError(
            f"the checkpoint {checkpoint} was trained on other rows, another split or another data "
            f"section than {path} describes, so rows that trained it might judge it; train again, "
            "or give the config it was trained with"
        )
    return config, found.model, prepared


def _provenance(config: Config) -> Provenance:
    return Provenance(
        created_unix=unix_seconds(),
        headway=__version__,
        model=str(msgspec.to_builtins(config.model)["name"]),
        details={"reader": str(msgspec.to_builtins(config.data.reader)["kind"])},
    )


def _write(result: OptimizeResult, out: Path, name: str, terminal: Terminal) -> None:
    report = build_optimize(summary(result, out, name))
    plan = Plan(workers=usable_cores(), batch_candidates=_BATCH_CANDIDATES)
    parts = replace(result.parts, plan=plan, report_html=report)
    with terminal.step(f"writing {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bundle(out, parts, overwrite=True)


def _show(report: OptimizeReport, terminal: Terminal, *, written: bool) -> None:
    guard = report.guard
    sizes = list(next(iter(report.latency_us.values())))
    terminal.table(
        "compositions, median latency of a whole query on one core",
        ("", *(f"N = {n}" for n in sizes)),
        [
            (name, *(milliseconds(by_size[n] / 1000) for n in sizes))
            for name, by_size in report.latency_us.items()
        ],
    )
    terminal.table(
        f"{report.name} -> {report.bundle}",
        ("", "original", "optimized"),
        [
            ("taken", "", report.composition),
            ("size", size(report.original_bytes), size(report.size_bytes)),
            *((name, old, new) for name, old, new, _, _ in guard_rows(guard)),
            (
                "delta AUC",
                "",
                f"{figure_of(guard.delta_auc, '+.5f')} {interval_of(guard)}",
            ),
            *([("worst slice", "", slice_text(guard))] if guard.worst_slice else []),
            ("guard", f"{guard.rows:,} rows", f"{guard.verdict}: {guard.reason}"),
        ],
    )
    if guard.rows_to_decide is not None:
        terminal.result(f"about {guard.rows_to_decide:,} rows would decide")
    if written:
        terminal.result(f"report: {report.bundle}/report.html")
    terminal.object(report)
