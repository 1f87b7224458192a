"""``headway profile``: how long a bundle takes on this machine, and how near that is to its limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from headway.cli.terminal import Terminal
from headway.core import MonotonicClock, UsageError

if TYPE_CHECKING:  # the command line's help must not wait for the engine
    from headway.engine import Profile, ProfileSettings


def profile_command(  # noqa: PLR0913, PLR0917 - an option is a parameter
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="The bundle's folder.")
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", help="Numbers of candidates, rising.")
    ] = "1,4,16,64,256,1000",
    concurrency: Annotated[
        str, typer.Option("--concurrency", help="Numbers of threads; default: 1 to all cores.")
    ] = "",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, max=3600, help="For everything, roughly.")
    ] = 30.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the queries.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the profile as JSON into this file.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Write an HTML page with plots into this file.")
    ] = None,
    operators: Annotated[
        str | None,
        typer.Option("--operators", metavar="MODEL", help="Of a zoo model, or all: no BUNDLE."),
    ] = None,
    style: Annotated[
        str, typer.Option("--style", help="With --operators: paper or repo sizes.")
    ] = "repo",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure latency over rows and threads, the machine's ceilings, and the distance to them.

    Queries rotate and look up more than the caches hold. Skewed ids are what production sends;
    uniform ones are the worst case for caches.
    """
    from headway.cli.operators import parse_rows

    terminal = Terminal(json=json)
    if (bundle is None) == (operators is None):
        raise UsageError("headway profile takes a BUNDLE, or --operators with a model of the zoo")
    if operators is not None:
        return _operators(operators, style, parse_rows(rows), terminal)
    from headway.engine import ProfileSettings

    settings = ProfileSettings(
        rows=parse_rows(rows),
        concurrency=parse_rows(concurrency) if concurrency else (),
        seconds=seconds,
    )
    assert bundle is not None
    return profile_bundle(bundle, settings, seed, (out, page), terminal)


def _operators(model: str, style: str, rows: tuple[int, ...], terminal: Terminal) -> None:
    from headway.cli.operators import show_operators

    if style not in {"paper", "repo"}:
        raise UsageError(f"--style {style!r} is neither paper nor repo")
    show_operators(model, style, rows, terminal)  # type: ignore[arg-type]


def profile_bundle(
    path: Path,
    settings: ProfileSettings,
    seed: int,
    files: tuple[Path | None, Path | None],
    terminal: Terminal,
) -> None:
    """Measure a bundle, print what was found and write it into the files.

    Args:
        path: the bundle.
        settings: what is measured.
        seed: of the queries.
        files: where JSON and a page go, or None.
        terminal: where to print.
    """
    import numpy as np

    from headway.engine import load_model, profile

    loaded = load_model(path)
    with terminal.step(f"profiling {path}") as step:
        found = profile(
            loaded,
            settings,
            MonotonicClock(),
            np.random.default_rng(seed),
            lambda text, done, total: step.at(done, total, text),
        )
    _show(found, terminal)
    out, page = files
    if out is not None:
        _write(out, msgspec.json.format(msgspec.json.encode(found), indent=2))
        terminal.say(f"profile: {out}")
    if page is not None:
        from headway.cli.pages.profile import build_profile

        _write(page, build_profile(found).encode())
        terminal.say(f"page: {page}")
    terminal.object(found)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _show(found: Profile, terminal: Terminal) -> None:
    from headway.cli import profile_tables as tables

    facts = found.machine
    terminal.result(
        f"{found.bundle} on {facts.cpu}, {facts.usable_cores} usable cores, "
        f"fingerprint {found.fingerprint}"
    )
    terminal.table("latency of whole queries", *tables.latency_table(found))
    if found.ceilings is not None:
        terminal.table("ceilings of one core", *tables.ceiling_table(found.ceilings))
        for note in found.ceilings.notes:
            terminal.result(note)
    terminal.table("towers", *tables.tower_table(found))
    if found.engines:
        terminal.table("engines, as tried when the bundle was made", *tables.engine_table(found))
    if found.limits:
        terminal.table(
            "distance to the limit: one thread, per query, times in us", *tables.limit_table(found)
        )
