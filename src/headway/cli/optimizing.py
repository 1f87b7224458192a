"""``headway optimize``: from a config, or a checkpoint, to a bundle with its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from headway import __version__
from headway.bundle import Provenance
from headway.cli.config import Config, read_config
from headway.cli.pages.chain import (
    SIZE_HEAD,
    doubts,
    size_rows,
    speed_head,
    speed_note,
    speed_rows,
)
from headway.cli.pages.frontier import frontier_page
from headway.cli.pages.guard import guard_rows, slice_text
from headway.cli.pages.optimize import build_optimize
from headway.cli.pages.tables import figure_of, interval_of
from headway.cli.results import GuardStep
from headway.cli.terminal import Terminal, milliseconds, size
from headway.cli.training import DATA_FINGERPRINT, train_config
from headway.compress import (
    STANDARD_PASSES,
    Chain,
    Job,
    OptimizeResult,
    OptimizeSettings,
    Recipe,
    SearchSettings,
    Summary,
    check_publishable,
    check_sizes,
    measure_chain,
    optimize_model,
    search_model,
    summarise,
)
from headway.compress import publish as write
from headway.core import Clock, DataError, MonotonicClock, NotProvenError, Sla, unix_seconds
from headway.data import Prepared, fingerprint, load_data
from headway.models import RankingModel, load_checkpoint


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line said beside the config.

    Attributes:
        checkpoint: a trained model; None trains one.
        allow_unproven: take and publish what is not proven to lose.
        passes: False leaves the module as it is, True runs the config's passes, or the standard
            ones where it names none; None does as the config says.
        chain: what the chain's throughput is bounded by; None leaves the chain unmeasured.
        search_s: seconds to search recipes of passes in; None takes the config's.
    """

    checkpoint: Path | None = None
    allow_unproven: bool = False
    passes: bool | None = None
    chain: Sla | None = None
    search_s: float | None = None


def optimize_config(
    path: Path, data: Path | None, out: Path, wanted: Wanted, terminal: Terminal
) -> int:
    """Train or load, optimise, write the bundle; returns the exit code, 3 if not proven.

    A composition that the guard failed is never written, and one that it did not prove never
    replaces a bundle that passed, unless ``allow_unproven``.
    """
    settings = with_passes(read_config(path, data).optimize, wanted.passes)
    if wanted.chain is not None:
        check_sizes(settings)
    config, model, prepared = _model(path, data, out, wanted.checkpoint, terminal)
    job = Job(name=config.name, model=model, data=prepared, provenance=_provenance(config))
    tools = (np.random.default_rng(config.train.seed), MonotonicClock())
    allow = wanted.allow_unproven
    if wanted.search_s is None:
        result = run_optimize(job, settings, tools, terminal, allow_unproven=allow)
    else:
        found = SearchSettings(budget_s=wanted.search_s, seed=config.train.seed)
        result = run_search(job, settings, found, out.with_name(f"{out.name}-search"), terminal)
    chain = None
    if wanted.chain is not None:
        with terminal.step("measuring what each pass brings") as step:
            chain = measure_chain(job, result.passes, settings, tools, step.told, sla=wanted.chain)
    report = summarise(result, config.name, chain=chain)
    refused: NotProvenError | None = None
    try:
        publish(result, report, out, terminal, allow_unproven=allow)
        report = msgspec.structs.replace(report, bundle=str(out))
        result.check(allow_unproven=allow)
    except NotProvenError as error:
        refused = error
    show(report, terminal)
    if refused is not None:
        terminal.say(f"headway: {refused}")
        return refused.exit_code
    return 0


def run_search(
    job: Job,
    settings: OptimizeSettings,
    search: SearchSettings,
    folder: Path,
    terminal: Terminal,
) -> OptimizeResult:
    """Search recipes of passes, and leave the frontier as a page in the folder of the search."""
    with terminal.step("searching") as step:
        found = search_model(job, search, settings, folder, MonotonicClock(), step.told)
    target = folder / "frontier.html"
    target.write_text(frontier_page(found.report, job.name))
    tried = sum(point.rung is not None for point in found.report.points)
    terminal.say(
        f"{tried} of {len(found.report.points)} recipes tried in {found.report.seconds:.0f} s, "
        f"{found.report.stopped}; taken: {found.report.taken or 'the original'}; all: {target}"
    )
    return found.optimized


def with_passes(settings: OptimizeSettings, passes: bool | None) -> OptimizeSettings:
    """Return the settings with passes turned on or off, or as they are."""
    if passes is None or (passes and settings.passes.passes):
        return settings
    return msgspec.structs.replace(settings, passes=STANDARD_PASSES if passes else Recipe())


def optimize_into(
    job: Job, settings: OptimizeSettings, out: Path, seed: int, terminal: Terminal
) -> OptimizeResult:
    """Optimise and write the bundle and its report to ``out``, replacing an older bundle.

    Raises:
        NotProvenError: if the guard failed the result.
    """
    tools = (np.random.default_rng(seed), MonotonicClock())
    result = run_optimize(job, settings, tools, terminal, allow_unproven=False)
    publish(result, summarise(result, job.name), out, terminal, allow_unproven=True)
    return result


def publish(
    result: OptimizeResult,
    report: Summary,
    out: Path,
    terminal: Terminal,
    *,
    allow_unproven: bool,
) -> None:
    """Write the bundle with its report, unless it failed or is the lesser one.

    Raises:
        NotProvenError: if the guard failed the result; or did not prove it while a bundle that
            passed stands at ``out``, and ``allow_unproven`` is not given.
    """
    check_publishable(result, out, allow_unproven=allow_unproven)
    page = build_optimize(report)
    with terminal.step(f"writing {out}"):
        write(result, out, page)


def run_optimize(
    job: Job,
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
    terminal: Terminal,
    *,
    allow_unproven: bool,
) -> OptimizeResult:
    """Optimise with a progress bar."""
    with terminal.step("optimising") as step:
        result = optimize_model(
            job, settings, chance_and_time, step.told, allow_unproven=allow_unproven
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


def show(report: Summary, terminal: Terminal) -> None:
    """Print the result, as tables or as one JSON object."""
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
    if report.chain is not None:
        _show_chain(report.chain, terminal)
    terminal.table(
        f"{report.name} -> {report.bundle or 'not written'}",
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
    if report.bundle is not None:
        terminal.result(f"report: {report.bundle}/report.html")
    terminal.object(report)


def _show_chain(chain: Chain, terminal: Terminal) -> None:
    terminal.table("what each pass brings, all up to it together", SIZE_HEAD, size_rows(chain))
    for doubt in doubts(chain):
        terminal.result(doubt)
    terminal.table("latency on one core, ms", speed_head(chain), speed_rows(chain))
    terminal.result(speed_note(chain))
