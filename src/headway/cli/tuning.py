"""``headway tune``: the plan that answers most queries within the SLA, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from headway.cli.terminal import Terminal
from headway.core import parse_sla

EPILOG = (
    "Examples: headway tune out/movielens --sla p95=25ms | "
    "headway tune out/movielens --workload lognormal --search bayes --budget 300 | "
    "headway tune out/movielens --evaluator both --no-write --report out/tune.html"
)


def tune_command(  # noqa: PLR0913, PLR0917 - an option is a parameter
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    sla: Annotated[
        str, typer.Option("--sla", help="Tail-latency target, like p95=25ms.")
    ] = "p95=25ms",
    workload: Annotated[
        str, typer.Option("--workload", help="SIZES[,uniform][@ARRIVALS], see docs/tour.md.")
    ] = "production",
    evaluator: Annotated[
        Literal["simulated", "real", "both"],
        typer.Option(
            "--evaluator",
            help="Where plans are tried; both: found in simulation, judged on a server.",
        ),
    ] = "simulated",
    search: Annotated[
        Literal["adaptive", "climb", "joint", "bayes", "grid"],
        typer.Option(
            "--search",
            help="climb: DeepRecSched; adaptive: that, and policies that follow the load; "
            "joint: all settings together, by walks; bayes: the same plans, proposed by a model "
            "(Optuna, extra optimize); grid: many split sizes.",
        ),
    ] = "adaptive",
    budget: Annotated[
        float, typer.Option("--budget", metavar="SECONDS", help="For everything, roughly.")
    ] = 120.0,
    confirm: Annotated[
        bool,
        typer.Option("--confirm/--no-confirm", help="Measure a simulated plan on a server too."),
    ] = True,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Put the plan into the bundle.")
    ] = True,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page with plots here.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of arrivals, sizes, ids.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the plan with the highest rate within the SLA and put it into the bundle.

    Measures service times on this machine, alone and with all cores at work, searches plans on
    a simulated machine of these times, and measures the winner on a real server. Simulated and
    measured figures stand apart. Exits with 3 if no plan meets the SLA; the bundle then keeps
    the plan it had.
    """
    from headway.cli.tune_job import TuneSettings, tune_bundle

    settings = TuneSettings(
        sla=parse_sla(sla),
        workload=workload,
        evaluator=evaluator,
        search=search,
        budget_s=budget,
        confirm=confirm,
        write=write,
        report=report,
        seed=seed,
    )
    raise typer.Exit(tune_bundle(bundle, settings, Terminal(json=json)))
