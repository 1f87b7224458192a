"""Latency of whole queries: Headway's bundles against the model in torch, for the nine models.

One thread, all engines take turns on the same queries, which rotate; medians are shown, and ratios
of medians. Tables are capped in rows, dense parts have their full size. Weights are drawn, so the
error of the reduced bundle against float32 says what rounding does, not what it costs in AUC.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
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
TARGETS = {  # engine and scopes: geometric mean over the models at N = 256, times torch eager
    ("f32", "default"): 2.5,
    ("reduced", "default"): 6.0,
    ("reduced", "all-candidate"): 3.0,
}
SINGLE_TARGETS = {("f32", "default", "din"): 10.0, ("f32", "default", "dien"): 2.0}
EAGER, COMPILED = "torch eager", "torch.compile"


def queries_of(schema: Schema, size: int, count: int, ids: str) -> list[Query]:
    rng = np.random.default_rng(size)
    return draw_queries(schema, np.full(count, size), rng, ids=ids, lengths="full")


def runners_of(
    model: RankingModel, schema: Schema, folder: Path, *, compiled: bool
) -> tuple[dict[str, Runner], dict[str, float]]:
    runners: dict[str, Runner] = {EAGER: TorchRunner(model, schema, threads=1)}
    if compiled:
        module: Any = torch.compile(model, dynamic=True)
        runners[COMPILED] = TorchRunner(module, schema, threads=1)
    errors = {}
    for precision in ("f32", "reduced"):
        report = headway.compile(model, schema, folder / precision, precision=precision)
        runners[precision] = load_model(folder / precision, threads=1).runner()
        errors[precision] = report.mean_error if precision == "reduced" else report.equality
    return runners, errors


def measure(name: str, scopes: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    made = zoo(name, style=args.style, scopes=scopes, max_rows=args.rows)
    model = build_model(made.settings, made.schema)
    sizes = QUICK_SIZES if args.quick else SIZES
    with tempfile.TemporaryDirectory() as folder:
        runners, errors = runners_of(model, made.schema, Path(folder), compiled=args.torch_compile)
        for ids in args.ids:
            queries = {size: queries_of(made.schema, size, 8, ids) for size in sizes}
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
                        "p95_us": float(np.percentile(taken, 95)) / 1000,
                        "runs": len(taken),
                        "error": errors.get(engine, 0.0),
                    }


def times(rows: list[dict[str, Any]], engine: str, **key: Any) -> float:
    """How many times as fast as torch eager."""

    def p50(name: str) -> float:
        wanted = key | {"engine": name}
        return next(r["p50_us"] for r in rows if all(r[k] == v for k, v in wanted.items()))

    return p50(EAGER) / p50(engine)


def mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def show(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    for scopes in args.scopes:
        for ids in args.ids:
            print(f"\n{scopes} scopes, {ids} ids; ms, and times as fast as torch eager")
            print(f"{'model':9}{'N':>6}" + "".join(f"{name:>22}" for name in engines))
            for row in rows:
                if row["engine"] != EAGER or (row["scopes"], row["ids"]) != (scopes, ids):
                    continue
                key = {k: row[k] for k in ("model", "scopes", "ids", "n")}
                cells = ""
                for engine in engines:
                    ratio = times(rows, engine, **key)
                    cells += f"{row['p50_us'] / ratio / 1000:13.3f} {ratio:6.2f}x "
                print(f"{row['model']:9}{row['n']:>6}{cells}")
            for engine in engines[1:]:
                _show_mean(rows, engine, (scopes, ids), args.models)
    errors = {(r["model"], r["engine"]): r["error"] for r in rows if r["engine"] == "reduced"}
    shown = ", ".join(f"{model} {error:.3f}" for (model, _), error in errors.items())
    print(f"\nreduced: root mean square change as a share of the outputs' spread: {shown}")


def _show_mean(
    rows: list[dict[str, Any]], engine: str, run: tuple[str, str], models: list[str]
) -> None:
    scopes, ids = run
    found = {m: times(rows, engine, model=m, scopes=scopes, ids=ids, n=AT) for m in models}
    target = TARGETS.get((engine, scopes))
    aim = f" (target {target:g}x)" if target else ""
    print(f"  {engine}: geometric mean at N = {AT} {mean(list(found.values())):.2f}x{aim}")
    for (name, where, model), wanted in SINGLE_TARGETS.items():
        if (name, where) == (engine, scopes) and model in found:
            print(f"    {model}: {found[model]:.2f}x (target {wanted:g}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--style", default="repo", choices=STYLES)
    parser.add_argument("--scopes", nargs="+", default=["default", "all-candidate"])
    parser.add_argument("--ids", nargs="+", default=["zipf", "uniform"])
    parser.add_argument("--rows", type=int, default=100_000, help="most rows of a table")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each model and ids")
    parser.add_argument("--torch-compile", action="store_true", help="a minute more per model")
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args()
    if args.quick:
        args.models = [m for m in args.models if m != "dien"]  # two minutes to capture
        args.scopes, args.ids, args.seconds = ["default"], ["zipf"], 2.0
        args.rows = min(args.rows, 20_000)
    torch.set_num_threads(1)
    facts = machine_facts()
    print(f"{facts.cpu}, {facts.usable_cores} cores, {facts.system}; presets {args.style}")
    rows: list[dict[str, Any]] = []
    for scopes in args.scopes:
        for name in args.models:
            rows += measure(name, scopes, args)
            print(f"  {name} ({scopes}) measured", flush=True)
    show(rows, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
