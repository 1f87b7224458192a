"""Latency of whole queries: Headway's bundles against four rivals, for the nine models.

One thread; all take turns on the same queries, which rotate. Medians are shown, and ratios of
medians. Tables are capped in rows, bags and histories are full, dense parts have their full size.
Weights are drawn, so the error of the reduced bundle against float32 says what rounding does, not
what it costs in AUC. Rivals score a query as a batch with its context repeated for each candidate.

Examples:
    python benchmarks/latency.py --quick
    python benchmarks/latency.py --models din dien --scopes default --json out/latency.json
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import torch

import headway
from headway.core import MonotonicClock, Query, Runner, Schema
from headway.engine import compare_latency, load_model, machine_facts
from headway.engine.torch_eager import TorchRunner
from headway.models import STYLES, ZOO, RankingModel, build_model, zoo
from headway.workload import draw_queries

SIZES = (1, 16, 64, 256, 1000)
QUICK_SIZES = (1, 64, 256)
AT = 256
F32, REDUCED = "f32", "reduced"
TARGETS = {  # bundle and scopes: geometric mean over the models at N = 256, times torch eager
    (F32, "default"): 2.5,
    (REDUCED, "default"): 6.0,
    (REDUCED, "all-candidate"): 3.0,
}
SINGLE_TARGETS = {(F32, "default", "din"): 10.0, (F32, "default", "dien"): 2.0}
BEHIND = 1.05  # how many times the fastest rival's time f32 may take from N = 16 on
Row = dict[str, Any]


def queries_of(schema: Schema, size: int, count: int, ids: str) -> list[Query]:
    rng = np.random.default_rng(size)
    return draw_queries(schema, np.full(count, size), rng, ids=ids, lengths="full")


def rivals_of(
    model: RankingModel, schema: Schema, folder: Path, wanted: list[str]
) -> dict[str, Runner]:
    """Return torch eager and the rivals that can be built; those that cannot are named."""
    torch.set_num_threads(1)
    eager = TorchRunner(model, schema)
    found: dict[str, Runner] = {rivals.EAGER: eager}
    path = folder / "whole.onnx"
    makers = {
        rivals.COMPILED: lambda: rivals.compiled_runner(model, schema),
        rivals.ONNX: lambda: rivals.onnx_runner(schema, path),
        rivals.OPENVINO: lambda: rivals.openvino_runner(schema, path),
    }
    (example,) = queries_of(schema, 3, 1, "uniform")
    if {rivals.ONNX, rivals.OPENVINO} & set(wanted):
        rivals.export_whole(model, rivals.features_of(example, schema), path)
    for name in wanted:
        start = time.perf_counter()
        try:
            runner = makers[name]()
            compare_latency(
                {name: runner}, {3: [example]}, MonotonicClock(), 0.0, tasks=len(schema.tasks)
            )
        except Exception as error:  # noqa: BLE001 - a rival that fails is a result
            print(f"    {name} cannot run it: {str(error).splitlines()[0][:120]}", flush=True)
            continue
        found[name] = runner
        print(f"    {name} ready after {time.perf_counter() - start:.0f} s", flush=True)
    return found


def bundles_of(
    model: RankingModel, schema: Schema, folder: Path
) -> tuple[dict[str, Runner], dict[str, Row]]:
    runners: dict[str, Runner] = {}
    told: dict[str, Row] = {}
    for precision in (F32, REDUCED):
        report = headway.compile(model, schema, folder / precision, precision=precision)
        runners[precision] = load_model(folder / precision, threads=1).runner()
        error = report.mean_error if precision == REDUCED else report.equality
        told[precision] = {"error": error, "composition": report.composition}
    return runners, told


def measure(name: str, scopes: str, args: argparse.Namespace) -> Iterator[Row]:
    made = zoo(name, style=args.style, scopes=scopes, max_rows=args.rows)
    model = build_model(made.settings, made.schema).eval()
    with tempfile.TemporaryDirectory() as folder:
        bundles, told = bundles_of(model, made.schema, Path(folder))
        runners = rivals_of(model, made.schema, Path(folder), args.rivals) | bundles
        for ids in args.ids:
            queries = {size: queries_of(made.schema, size, 8, ids) for size in args.sizes}
            found = compare_latency(
                runners, queries, MonotonicClock(), args.seconds, tasks=len(made.schema.tasks)
            )
            for engine, samples in found.items():
                for size, taken in samples.items():
                    yield {
                        "model": name,
                        "scopes": scopes,
                        "ids": ids,
                        "engine": engine,
                        "n": size,
                        "p50_us": float(np.median(taken)) / 1000,
                        "p25_us": float(np.percentile(taken, 25)) / 1000,
                        "p75_us": float(np.percentile(taken, 75)) / 1000,
                        "runs": len(taken),
                        **told.get(engine, {}),
                    }


class Figures:
    """What was measured, to be asked."""

    def __init__(self, rows: list[Row]) -> None:
        self._p50 = {
            (r["scopes"], r["ids"], r["model"], r["n"], r["engine"]): r["p50_us"] for r in rows
        }
        self.engines = list(dict.fromkeys(row["engine"] for row in rows))
        self.models = list(dict.fromkeys(row["model"] for row in rows))
        self.sizes = sorted({row["n"] for row in rows})
        self.runs = list(dict.fromkeys((row["scopes"], row["ids"]) for row in rows))

    def us(self, run: tuple[str, str], model: str, size: int, engine: str) -> float | None:
        """Median, or None where the engine did not run the model."""
        return self._p50.get((*run, model, size, engine))

    def times(self, run: tuple[str, str], model: str, size: int, engine: str) -> float | None:
        """How many times as fast as torch eager."""
        own, eager = (self.us(run, model, size, e) for e in (engine, rivals.EAGER))
        return eager / own if own and eager else None

    def mean(self, run: tuple[str, str], engine: str) -> float | None:
        """Geometric mean of the ratios to torch eager, or None if a model is missing."""
        found = [self.times(run, model, AT, engine) for model in self.models]
        known = [x for x in found if x is not None]
        return exp(sum(map(log, known)) / len(known)) if len(known) == len(found) else None

    def behind(self, run: tuple[str, str]) -> Iterator[tuple[str, int, str, float]]:
        """The cells in which a rival leaves f32 behind: model, N, rival, time over its time."""
        for model in self.models:
            for size in (n for n in self.sizes if n >= 16):
                own = self.us(run, model, size, F32)
                others = {
                    e: us
                    for e in self.engines
                    if e not in {F32, REDUCED} and (us := self.us(run, model, size, e))
                }
                best = min(others, key=lambda e: others[e])
                if own is not None and own > BEHIND * others[best]:
                    yield model, size, best, own / others[best]


def show(rows: list[Row]) -> None:
    figures = Figures(rows)
    for run in figures.runs:
        print(f"\n{run[0]} scopes, {run[1]} ids; ms, and times as fast as torch eager")
        print(f"{'model':9}{'N':>6}" + "".join(f"{name:>18}" for name in figures.engines))
        for model in figures.models:
            for size in figures.sizes:
                cells = ""
                for engine in figures.engines:
                    us, times = figures.us(run, model, size, engine), None
                    if us is not None:
                        times = figures.times(run, model, size, engine)
                    cells += f"{us / 1000:10.3f} {times:6.2f}x" if us and times else f"{'-':>18}"
                print(f"{model:9}{size:>6}{cells}")
        _show_targets(figures, run)
    errors = {(r["model"], r["scopes"]): r for r in rows if r["engine"] == REDUCED}
    print("\nreduced: what was taken, and the root mean square change as a share of the spread")
    for (model, scopes), row in errors.items():
        print(f"  {model:9}{scopes:15}{row['composition']:28}{row['error']:.4f}")


def _show_targets(figures: Figures, run: tuple[str, str]) -> None:
    for engine in figures.engines[1:]:
        found, target = figures.mean(run, engine), TARGETS.get((engine, run[0]))
        aim = f" (target {target:g}x)" if target else ""
        shown = "not all models ran" if found is None else f"{found:.2f}x"
        print(f"  {engine}: geometric mean at N = {AT} {shown}{aim}")
    for (engine, where, model), wanted in SINGLE_TARGETS.items():
        ratio = figures.times(run, model, AT, engine)
        if where == run[0] and ratio is not None:
            print(f"  {engine} on {model}: {ratio:.2f}x (target {wanted:g}x)")
    worse = list(figures.behind(run))
    print(f"  f32 more than 5 % behind the fastest rival from N = 16 on: {len(worse)} (target 0)")
    for model, size, best, ratio in worse:
        print(f"    {model} at {size}: {ratio:.2f}x the time of {best}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    others = [rivals.COMPILED, rivals.ONNX, rivals.OPENVINO]
    parser.add_argument("--models", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--style", default="repo", choices=STYLES)
    parser.add_argument("--scopes", nargs="+", default=["default", "all-candidate"])
    parser.add_argument("--ids", nargs="+", default=["zipf", "uniform"])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N")
    parser.add_argument("--rivals", nargs="*", default=others, choices=others)
    parser.add_argument("--rows", type=int, default=100_000, help="most rows of a table")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each model and ids")
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args()
    if args.quick:
        args.scopes, args.ids, args.seconds = ["default"], ["zipf"], 3.0
        args.rows, args.sizes = min(args.rows, 20_000), list(QUICK_SIZES)
        args.rivals = [name for name in args.rivals if name != rivals.COMPILED]  # a minute a model
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    facts = machine_facts()
    date = time.strftime("%Y-%m-%d")
    print(f"{facts.cpu}, {facts.usable_cores} cores, {facts.system}; {date}; presets {args.style}")
    rows: list[Row] = []
    for scopes in args.scopes:
        for name in args.models:
            print(f"  {name} ({scopes})", flush=True)
            rows += measure(name, scopes, args)
            gc.collect()
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                told = {"machine": facts.cpu, "system": facts.system, "date": date, "rows": rows}
                args.json.write_text(json.dumps(told, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
