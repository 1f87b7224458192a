"""Service times of the eight models in torch eager on one core: what `deeprecsys.py` simulates.

Whole requests of so many candidates, the context repeated for each, bags and histories full,
tables capped in rows. The models are visited several times and each size keeps its fastest
visit, because a shared host slows down for minutes at a time; ``--keep`` goes on from an earlier
file. With ``--busy`` a second process scores on the other core in turns: the ratio is how far
busy cores hold each other up.

Examples:
    python benchmarks/eager_profiles.py --quick
    python benchmarks/eager_profiles.py --busy --json benchmarks/torch_eager.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headway.core import MonotonicClock, Query, Schema
from headway.engine import compare_latency, machine_facts, raw_outputs
from headway.engine.torch_eager import TorchRunner
from headway.models import build_model, zoo
from headway.workload import draw_queries

EIGHT = ("ncf", "wnd", "mt-wnd", "rmc1", "rmc2", "rmc3", "din", "dien")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
QUICK_SIZES = (1, 16, 64, 256, 1024)
PERCENTILES = (10.0, 25.0, 50.0, 75.0, 90.0, 99.0)
BUSY_AT = 256
FEWEST_TURNS = 5
ENGINE = f"torch {torch.__version__} eager, one thread"
STEADY_TARGET = 1.25
"""Third over first quartile of one size: above it the host was not quiet enough to believe it."""


def measure(name: str, sizes: tuple[int, ...], rows: int, seconds: float) -> dict[int, list[float]]:
    """Return percentiles of the time in ns by number of candidates."""
    runner, schema = eager(name, rows)
    rng = np.random.default_rng(0)
    queries = {size: draw_queries(schema, np.full(8, size), rng, lengths="full") for size in sizes}
    taken = compare_latency(
        {"": runner}, queries, MonotonicClock(), seconds, tasks=len(schema.tasks)
    )[""]
    return {size: np.percentile(t, PERCENTILES).tolist() for size, t in taken.items()}


def eager(name: str, rows: int) -> tuple[TorchRunner, Schema]:
    """Return the model of the zoo in torch eager on one thread, and its schema."""
    torch.set_num_threads(1)
    made = zoo(name, max_rows=rows)
    return TorchRunner(build_model(made.settings, made.schema).eval(), made.schema), made.schema


def batches_of(schema: Schema, count: int, seed: int) -> list[Query]:
    """Return requests of the size at which interference is measured."""
    rng = np.random.default_rng(seed)
    return list(draw_queries(schema, np.full(count, BUSY_AT), rng, lengths="full"))


def keep_busy(name: str, rows: int, core: int, ready: Event, go: Event) -> None:
    """Score on a core of its own while it is told to, until it is ended."""
    os.sched_setaffinity(0, {core})
    runner, schema = eager(name, rows)
    (batch,) = batches_of(schema, 1, seed=1)
    tasks = len(schema.tasks)
    ready.set()
    while True:
        go.wait()
        raw_outputs(runner, [batch], tasks)


def interference(name: str, rows: int, seconds: float) -> tuple[float, ...] | None:
    """Return first quartile, median and third of the time with a busy other core over without.

    Alone and together take turns of a fraction of a second, so that the host's own slow phases
    meet both alike.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=keep_busy, args=(name, rows, cores[1], ready, go), daemon=True)
    other.start()
    os.sched_setaffinity(0, {cores[0]})
    try:
        runner, schema = eager(name, rows)
        batches = batches_of(schema, 8, seed=0)
        ready.wait(120)
        ratios = turns(runner, batches, len(schema.tasks), go, seconds)
    finally:
        other.terminate()
        other.join()
        os.sched_setaffinity(0, set(cores))
    return tuple(np.percentile(ratios, (25.0, 50.0, 75.0)).tolist())


def turns(
    runner: TorchRunner, batches: Sequence[Query], tasks: int, go: Event, seconds: float
) -> list[float]:
    """Return together over alone, turn by turn."""
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ratios) < FEWEST_TURNS:
        took = []
        for together in (False, True):
            (go.set if together else go.clear)()
            raw_outputs(runner, batches[:1], tasks)
            times = []
            for batch in batches:
                began = time.perf_counter()
                raw_outputs(runner, [batch], tasks)
                times.append(time.perf_counter() - began)
            took.append(float(np.median(times)))
        ratios.append(took[1] / took[0])
    return ratios


def fastest(told: dict[str, Any] | None, cpu: str, rows: int) -> dict[str, dict[int, list[float]]]:
    """Return the times of an earlier run, if it was the same machine, engine and tables."""
    if told is None:
        return {}
    same = (told["machine"], told["engine"], told["table_rows"]) == (cpu, ENGINE, rows)
    if not same:
        raise SystemExit(
            f"--keep: {told['machine']}, {told['engine']}, {told['table_rows']} rows are not what "
            f"is measured here: {cpu}, {ENGINE}, {rows} rows; leave --keep out"
        )
    return {
        name: {int(n): times for n, times in model["ns"].items()}
        for name, model in told["models"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(EIGHT), choices=EIGHT)
    parser.add_argument("--rows", type=int, default=200_000, help="of a table")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each model")
    parser.add_argument("--visits", type=int, default=3, help="of each model")
    parser.add_argument("--busy", action="store_true", help="interference of two busy cores, too")
    parser.add_argument("--keep", type=Path, help="begin with the times of this file")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, a second per model")
    parser.add_argument("--json", type=Path, help="write the profiles here")
    args = parser.parse_args()
    if args.quick:
        args.visits = 1
    sizes = QUICK_SIZES if args.quick else SIZES
    seconds = 1.0 if args.quick else args.seconds
    rows = min(args.rows, 20_000) if args.quick else args.rows
    facts = machine_facts()
    print(
        f"{facts.cpu}, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, median ms",
        flush=True,
    )
    print(" | ".join(["model", *map(str, sizes), "steady", "two cores / one"]), flush=True)
    models: dict[str, Any] = {}
    middle = PERCENTILES.index(50.0)
    kept = json.loads(args.keep.read_text()) if args.keep else None
    best = fastest(kept, facts.cpu, rows)
    for _ in range(args.visits):
        for name in args.models:
            for size, times in measure(name, sizes, rows, seconds / args.visits).items():
                known = best.setdefault(name, {}).setdefault(size, times)
                best[name][size] = min(known, times, key=lambda t: t[middle])
    for name in args.models:
        found = best[name]
        factors = interference(name, rows, max(1.0, seconds / 2)) if args.busy else None
        models[name] = {
            "ns": {str(n): found[n] for n in sorted(found)},
            "interference": factors and factors[1],
            "interference_quartiles": factors and (factors[0], factors[2]),
        }
        cells = [f"{found[n][middle] / 1e6:.3g}" for n in sizes]
        first, third = PERCENTILES.index(25.0), PERCENTILES.index(75.0)
        steady = float(np.median([t[third] / t[first] for t in found.values()]))
        word = "met" if steady <= STEADY_TARGET else "MISSED"
        cells.append(f"{steady:.2f}x (target at most {STEADY_TARGET:g}x: {word})")
        told = "{1:.2f} [{0:.2f}, {2:.2f}]".format(*factors) if factors else "-"
        print(" | ".join([name, *cells, told]), flush=True)
    written = {
        "machine": facts.cpu,
        "date": time.strftime("%Y-%m-%d"),
        "engine": ENGINE,
        "table_rows": rows,
        "percentiles": PERCENTILES,
        "models": models,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
