"""Service times of the eight models in torch eager on one core: what `deeprecsys.py` simulates.

Whole requests of so many candidates, the context repeated for each, bags and histories full,
tables capped in rows. The models are visited several times and each size keeps its fastest
visit, because a shared host slows down for minutes at a time. With ``--busy`` a second process
scores on the other core meanwhile: the ratio is how far busy cores hold each other up.

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
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headway.core import MonotonicClock
from headway.engine import compare_latency, machine_facts
from headway.engine.torch_eager import TorchRunner
from headway.models import build_model, zoo
from headway.workload import draw_queries

EIGHT = ("ncf", "wnd", "mt-wnd", "rmc1", "rmc2", "rmc3", "din", "dien")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
QUICK_SIZES = (1, 16, 64, 256, 1024)
PERCENTILES = (10.0, 25.0, 50.0, 75.0, 90.0, 99.0)
BUSY_AT = 256
STEADY_TARGET = 1.25
"""Third over first quartile of one size: above it the host was not quiet enough to believe it."""


def measure(name: str, sizes: tuple[int, ...], rows: int, seconds: float) -> dict[int, list[float]]:
    """Return percentiles of the time in ns by number of candidates."""
    torch.set_num_threads(1)
    made = zoo(name, max_rows=rows)
    model = build_model(made.settings, made.schema).eval()
    runner = TorchRunner(model, made.schema)
    rng = np.random.default_rng(0)
    queries = {
        size: draw_queries(made.schema, np.full(8, size), rng, lengths="full") for size in sizes
    }
    taken = compare_latency(
        {"": runner}, queries, MonotonicClock(), seconds, tasks=len(made.schema.tasks)
    )[""]
    return {size: np.percentile(t, PERCENTILES).tolist() for size, t in taken.items()}


def keep_busy(name: str, rows: int, core: int, ready: Event) -> None:
    """Score on a core of its own until it is ended."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    made = zoo(name, max_rows=rows)
    runner = TorchRunner(build_model(made.settings, made.schema).eval(), made.schema)
    queries = {
        BUSY_AT: draw_queries(
            made.schema, np.full(8, BUSY_AT), np.random.default_rng(1), lengths="full"
        )
    }
    ready.set()
    while True:
        compare_latency({"": runner}, queries, MonotonicClock(), 5.0, tasks=len(made.schema.tasks))


def interference(name: str, rows: int, seconds: float) -> float | None:
    """Return how many times longer a request takes while another core computes too."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, {cores[0]})
    alone = measure(name, (BUSY_AT,), rows, seconds)[BUSY_AT]
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=keep_busy, args=(name, rows, cores[1], ready), daemon=True)
    other.start()
    try:
        ready.wait(120)
        both = measure(name, (BUSY_AT,), rows, seconds)[BUSY_AT]
    finally:
        other.terminate()
        other.join()
        os.sched_setaffinity(0, set(cores))
    middle = PERCENTILES.index(50.0)
    return both[middle] / alone[middle]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(EIGHT), choices=EIGHT)
    parser.add_argument("--rows", type=int, default=200_000, help="of a table")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each model")
    parser.add_argument("--visits", type=int, default=3, help="of each model")
    parser.add_argument("--busy", action="store_true", help="interference of two busy cores, too")
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
    best: dict[str, dict[int, list[float]]] = {name: {} for name in args.models}
    for _ in range(args.visits):
        for name in args.models:
            for size, times in measure(name, sizes, rows, seconds / args.visits).items():
                kept = best[name].setdefault(size, times)
                best[name][size] = min(kept, times, key=lambda t: t[middle])
    for name, found in best.items():
        factor = interference(name, rows, max(1.0, seconds / 3)) if args.busy else None
        models[name] = {"ns": {str(n): t for n, t in found.items()}, "interference": factor}
        cells = [f"{found[n][middle] / 1e6:.3g}" for n in sizes]
        first, third = PERCENTILES.index(25.0), PERCENTILES.index(75.0)
        steady = float(np.median([t[third] / t[first] for t in found.values()]))
        word = "met" if steady <= STEADY_TARGET else "MISSED"
        cells.append(f"{steady:.2f}x (target at most {STEADY_TARGET:g}x: {word})")
        print(" | ".join([name, *cells, f"{factor:.2f}" if factor else "-"]), flush=True)
    told = {
        "machine": facts.cpu,
        "date": time.strftime("%Y-%m-%d"),
        "engine": f"torch {torch.__version__} eager, one thread",
        "table_rows": rows,
        "percentiles": PERCENTILES,
        "models": models,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
