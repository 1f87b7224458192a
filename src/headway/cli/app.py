"""The commands and their options; errors become messages and exit codes here."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from headway import __version__
from headway.cli.profiling import profile_command
from headway.cli.simulating import EPILOG as SIMULATE_EPILOG
from headway.cli.simulating import simulate_command
from headway.cli.terminal import Terminal
from headway.cli.tuning import EPILOG, tune_command
from headway.core import HeadwayError, UsageError, parse_sla

app = typer.Typer(
    name="headway",
    help="Make ranking models small and fast without measurable loss, and serve them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write; default: out/NAME.")]
DataPath = Annotated[
    Path | None, typer.Option("--data", help="Read the data here, not where the config says.")
]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; see examples/.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]
SlaText = Annotated[str, typer.Option("--sla", help="Tail-latency target, like p95=25ms.")]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"headway {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Make ranking models small and fast without measurable loss, and serve them."""


@app.command(epilog="Example: headway demo --out out/demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where to write.")] = Path("out/demo"),
    rows: Annotated[
        int, typer.Option("--rows", min=2000, help="Impressions to train on.")
    ] = 300_000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.5, help="Length of one load measurement.")
    ] = 4.0,
    sla: SlaText = "p95=25ms",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of data, training and load.")] = 0,
    json: Json = False,
) -> None:
    """Train, optimise, serve and measure on generated data: the whole product in minutes."""
    from headway.cli.demo import DemoSettings, run_demo

    settings = DemoSettings(out=out, rows=rows, seconds=seconds, sla=parse_sla(sla), seed=seed)
    raise typer.Exit(run_demo(settings, Terminal(json=json)))


@app.command(epilog="Example: headway train examples/movielens.yaml --out out/movielens-checkpoint")
def train(config: ConfigFile, data: DataPath = None, out: Out = None, json: Json = False) -> None:
    """Fit the model that a config describes and write a checkpoint."""
    from headway.cli.training import show_training, train_config

    terminal = Terminal(json=json)
    folder = out or Path("out") / f"{config.stem}-checkpoint"
    show_training(train_config(config, data, folder, terminal).report, terminal)


@app.command(
    epilog="Examples: headway optimize examples/movielens.yaml --out out/movielens | "
    "headway optimize examples/movielens.yaml --search 600 | "
    "headway optimize --onnx model.onnx --schema schema.yaml"
)
def optimize(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; see examples/.")
    ] = None,
    data: DataPath = None,
    out: Out = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Use this trained model, do not train.")
    ] = None,
    allow_unproven: Annotated[
        bool, typer.Option("--allow-unproven", help="Exit with 0 though the guard has not passed.")
    ] = False,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="Compile this ONNX model; needs no CONFIG.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", help="The ONNX model's schema, a YAML file.")
    ] = None,
    passes: Annotated[
        bool | None,
        typer.Option(
            "--passes/--no-passes",
            help="Make the module itself smaller first; default: as the config says.",
        ),
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Measure what each pass brings; takes longer.")
    ] = False,
    sla: Annotated[
        str | None,
        typer.Option("--sla", help="What the chain's throughput is bounded by: p95=25ms."),
    ] = None,
    search: Annotated[
        float | None,
        typer.Option(
            "--search",
            metavar="SECONDS",
            min=1,
            help="Search recipes of passes that long; goes on where an earlier search was.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train (or take a checkpoint), make it small and fast under the guard, write a bundle.

    Exits with 3 if the guard did not pass. The bundle is then written all the same when it is
    only not proven, labelled so. With --onnx and --schema there is no data to judge with: the
    model is compiled exactly, as by headway compile.
    """
    if onnx is not None or schema is not None:
        given = [config, data, checkpoint, passes, sla, search]
        given += [allow_unproven or None, chain or None]
        if onnx is None or schema is None or any(v is not None for v in given):
            raise UsageError("--onnx goes with --schema, and with --out and --json only")
        return compile_(onnx, schema, out, "f32", json)
    if config is None:
        raise UsageError("headway optimize needs a CONFIG, or --onnx and --schema")
    if sla is not None and not chain:
        raise UsageError("--sla goes with --chain")
    if search is not None and (passes is not None or chain or allow_unproven):
        raise UsageError(
            "--search finds the passes itself and judges what it finds; leave out --passes, "
            "--chain and --allow-unproven"
        )
    from headway.cli.optimizing import Wanted, optimize_config

    target = parse_sla(sla or "p95=25ms") if chain else None
    wanted = Wanted(checkpoint, allow_unproven, passes, target, search)
    folder = out or Path("out") / config.stem
    raise typer.Exit(optimize_config(config, data, folder, wanted, Terminal(json=json)))


@app.command(
    "compile",
    epilog="Example: headway compile model.onnx --schema schema.yaml --precision reduced",
)
def compile_(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Opset 17 or later.")],
    schema: Annotated[
        Path, typer.Option("--schema", help="Features, tables and tasks; see docs/onnx.md.")
    ],
    out: Out = None,
    precision: Annotated[
        Literal["f32", "reduced"],
        typer.Option("--precision", help="f32: equal to the model; reduced: int8."),
    ] = "f32",
    json: Json = False,
) -> None:
    """Write a bundle from an ONNX model and a schema, without any data.

    Nothing is judged: reduced precision states its error against f32 on generated rows.
    """
    from headway.cli.compiling import compile_onnx

    folder = out or Path("out") / model.stem
    compile_onnx(model, schema, folder, precision, Terminal(json=json))


@app.command(
    epilog="Examples: headway inspect out/movielens | "
    "headway inspect --graph out/movielens --page out/graph.html"
)
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="The bundle; with --graph, or a checkpoint.")
    ],
    graph: Annotated[
        bool, typer.Option("--graph", help="Show what runs once per query, and what it saves.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="With --graph: draw it into this HTML file.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what stands in a bundle: features, tables, towers, guard, what was tried."""
    if graph:
        from headway.cli.graphing import show_graph

        return show_graph(path, page, Terminal(json=json))
    if page is not None:
        raise UsageError("--page goes with --graph")
    from headway.cli import inspecting

    return inspecting.inspect(path, Terminal(json=json))


@app.command(epilog="Example: headway validate out/movielens")
def validate(bundle: BundlePath, json: Json = False) -> None:
    """Check every hash of a bundle, build its engines and replay its golden queries."""
    from headway.cli import inspecting

    inspecting.validate(bundle, Terminal(json=json))


@app.command(epilog="Example: headway serve out/movielens --port 8000")
def serve(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A bundle, or a checkpoint to serve it unoptimised."),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Serve under this name.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")
    ] = 8000,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Permit a host that others can reach.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Default: one per usable core.")
    ] = None,
    split_size: Annotated[
        int | None, typer.Option("--split-size", min=1, help="Most candidates in one chunk.")
    ] = None,
    batch_candidates: Annotated[
        int | None,
        typer.Option("--batch-candidates", min=0, help="Batch chunks up to this; 0: never."),
    ] = None,
    policy: Annotated[
        Literal["fixed", "adaptive"] | None,
        typer.Option("--policy", help="One split size, or sizes that follow the load."),
    ] = None,
    sla: Annotated[
        str | None,
        typer.Option("--sla", help="What the adaptive policy aims at, like p95=25ms."),
    ] = None,
    refuse_late: Annotated[
        bool | None,
        typer.Option(
            "--refuse-late/--no-refuse-late", help="Adaptive: turn away what would miss the SLA."
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="Take this plan, a JSON file, and not the bundle's."),
    ] = None,
    lighter: Annotated[
        Path | None,
        typer.Option("--lighter", help="A bundle that answers what would be late else."),
    ] = None,
    manage: Annotated[
        bool, typer.Option("--manage", help="Let this machine change the plan while serving.")
    ] = False,
    worker_priority: Annotated[
        Literal["normal", "batch", "idle"],
        typer.Option(
            "--worker-priority",
            help="Of threads that score, on Linux; idle, where nothing else runs, shortens waits.",
        ),
    ] = "batch",
    pin_workers: Annotated[
        bool,
        typer.Option(
            "--pin-workers/--no-pin-workers",
            help="Keep each worker on a core of its own, if there is one for every core.",
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Serve a bundle over HTTP: Open Inference Protocol v2 and POST /v1/rank."""
    from headway.cli import serving
    from headway.server import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        allow_remote=allow_remote,
        allow_management=manage,
        worker_priority=worker_priority,
        pin_workers=pin_workers,
    )
    target = None if sla is None else parse_sla(sla).limit_ns
    changes = serving.PlanChanges(
        workers, split_size, batch_candidates, policy, target, refuse_late, plan
    )
    serving.serve(path, name, changes, settings, Terminal(json=json), lighter)


@app.command(
    epilog="Examples: headway bench http://127.0.0.1:8000 --sla p95=25ms | "
    "headway bench out/movielens --rate 500 --seconds 10 --save-schedule out/run.npz | "
    "headway bench http://127.0.0.1:8000 --schedule out/run.npz"
)
def bench(
    target: Annotated[
        str, typer.Argument(metavar="URL|BUNDLE", help="A running server, or a bundle to serve.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Needed if the server has several models.")
    ] = None,
    sla: SlaText = "p95=25ms",
    workload: Annotated[
        str, typer.Option("--workload", help="SIZES[,uniform][@ARRIVALS], see docs/tour.md.")
    ] = "production",
    rate: Annotated[
        float | None, typer.Option("--rate", help="Measure this rate only, in queries/s.")
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", min=0.5, max=3600, help="Length of one run; a --schedule has its own."
        ),
    ] = 5.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of arrivals, sizes, ids.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page with plots here.")
    ] = None,
    save_schedule: Annotated[
        Path | None,
        typer.Option("--save-schedule", help="Write arrivals and sizes of the run at --rate here."),
    ] = None,
    schedule: Annotated[
        Path | None,
        typer.Option("--schedule", help="Fire what --save-schedule wrote, at any server."),
    ] = None,
    json: Json = False,
) -> None:
    """Fire open-loop Poisson load and find the highest rate at which the SLA holds.

    With --rate or --schedule, measures that run alone and exits with 3 if the SLA was not met.
    """
    from headway.cli.benching import BenchSettings, run_bench

    settings = BenchSettings(
        sla=parse_sla(sla),
        workload=workload,
        rate=rate,
        seconds=seconds,
        seed=seed,
        report=report,
        schedule=schedule,
        save_schedule=save_schedule,
    )
    raise typer.Exit(run_bench(target, model, settings, Terminal(json=json)))


app.command(
    "profile",
    epilog="Examples: headway profile out/movielens --page out/profile.html | "
    "headway profile --operators din",
)(profile_command)
app.command("tune", epilog=EPILOG)(tune_command)
app.command("simulate", epilog=SIMULATE_EPILOG)(simulate_command)


@app.command()
def doctor(json: Json = False) -> None:
    """Show what this machine has and what Headway would use of it."""
    from headway.cli import inspecting

    inspecting.doctor(Terminal(json=json))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failed, 2 usage, 3 guard or SLA not met."""
    if threading.current_thread() is threading.main_thread():
        # Unwinds, so that servers started for a measurement end with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(args=arguments)
    except HeadwayError as error:
        sys.stderr.write(f"headway: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        sys.stderr.write(f"headway: cannot use{place}: {error.strerror or error}\n")
        sys.exit(1)
