"""What compression brings and what it costs in quality, for each pass and for all together.

Each model is trained, made smaller pass by pass, and put together in reduced precision. Every
prefix of the chain, and every way with one pass left out, is judged by the guard against the
original on rows that chose nothing, and timed on one core, turn by turn, against the original in
torch eager. Generated worlds have the dense parts of the published models and smaller tables; the
same compressed model is then timed once more with tables and bags of full size, its rows drawn
from those it has. Throughput is simulated for one worker from the times measured.

Examples:
    python benchmarks/compression.py --quick
    python benchmarks/compression.py --worlds generated:rmc3 movielens:din --json out/part.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from worlds import EIGHT, WORLDS, World, make_world

from headway.bundle import Provenance
from headway.compress import (
    Chain,
    Job,
    Material,
    OptimizeSettings,
    Recipe,
    Stage,
    first_stage,
    measure_chain,
    run_pass,
    sample_queries,
)
from headway.compress.built import Built, build
from headway.compress.choose import Scored
from headway.compress.composition import Composition, build_compositions
from headway.compress.lowering import lower_explained
from headway.compress.verdict import Judge
from headway.core import MonotonicClock, Schema, concat_columns
from headway.data import Dataset
from headway.engine import compare_latency, machine_facts
from headway.engine.torch_eager import TorchRunner
from headway.models import RankingModel, build_model, count_cost, predict, train, zoo
from headway.workload import draw_queries

Row = dict[str, Any]
SIZES = (64, 256, 1000)
AT = 256
MEAN_TARGET, SINGLE_TARGET = 0.15, 0.30
INT8_TARGET, INT4_TARGET, PRUNE_TARGET = 0.0005, 0.15, 0.5
PRUNED = ("rmc3", "wnd", "mt-wnd")
SEED = 1


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way of compressing: what the module became, and in which formats it is put together."""

    stage: Stage
    tables: str
    dense: str


def train_world(world: World) -> tuple[RankingModel, Row]:
    start = time.perf_counter()
    model = build_model(world.settings, world.data.schema)
    result = train(model, world.data.train, world.data.valid, world.train)
    told = {"train_s": time.perf_counter() - start, "valid_auc": result.valid_auc}
    best = getattr(world.data, "best_auc", None)
    if best is not None:
        told["oracle_auc"] = best("valid")
    return model, told


def stages_of(
    first: Stage, recipe: Recipe, material: Material, known: dict[str, Stage]
) -> list[Stage]:
    """Run the passes of a recipe, those of a prefix that ran before taken from ``known``."""
    found = [first]
    for name in recipe.passes:
        key = msgspec.json.encode(recipe.before(name)).decode()
        if key not in known:
            chance = (np.random.default_rng(SEED), MonotonicClock())
            known[key] = run_pass(found[-1], name, recipe, material, chance)
            print(f"    {name}: {known[key].seconds:.0f} s", flush=True)
        found.append(known[key])
    return found[1:]


def ways_of(
    first: Stage, world: World, material: Material, known: dict[str, Stage]
) -> dict[str, Way]:
    """Return the passes alone and the chain with one of them left out."""
    recipe = world.recipe

    def last(made: Recipe) -> Stage:
        return stages_of(first, made, material, known)[-1]

    whole = last(recipe)
    return {
        "only compiled": Way(first, "f32", "f32"),
        "only int8": Way(first, "int8", "int8"),
        "only int4 tables": Way(first, "int4", "f32"),
        "only pruned": Way(last(recipe.without("lightweight")), "f32", "f32"),
        "all": Way(whole, "*", "*"),
        "without lightweight": Way(last(recipe.without("lightweight")), "*", "*"),
        "without prune": Way(last(recipe.without("prune")), "*", "*"),
        "without distil": Way(last(recipe.without("distil")), "*", "*"),
        "without quantize": Way(whole, "f32", "f32"),
    }


def compositions_of(
    ways: Mapping[str, Way], world: World, settings: OptimizeSettings
) -> dict[str, Composition]:
    """Return what each way is put together from; ``*`` is the fastest tower of int8 tables."""
    stages = {id(way.stage): way.stage for way in ways.values()}
    built: dict[int, Built] = {}
    for key, stage in stages.items():
        rng = np.random.default_rng(SEED)
        (built[key],) = build({str(key): stage}, world.data.train, settings, rng, lambda: None)
    found = {}
    for name, way in ways.items():
        fitting = [
            c
            for c in built[id(way.stage)].compositions
            if way.tables in {"*", c.tables}
            and way.dense in {"*", c.dense}
            and (way.tables != "*" or c.tables == "int8")
        ]
        if fitting:  # no product may be wide enough for int8
            best = min(fitting, key=lambda c: c.dense_us)
            found[name] = replace(best, variant=name)
    return found


def ablation(
    model: RankingModel, world: World, material: Material, known: dict[str, Stage], args: Any
) -> list[Row]:
    first = first_stage(model, world.data.schema)
    ways = ways_of(first, world, material, known)
    settings = settings_of(world, args)
    compositions = compositions_of(ways, world, settings)
    runners = {"original": TorchRunner(model, world.data.schema)}
    runners |= {name: c.model.runner() for name, c in compositions.items()}
    queries = queries_from(world.data.choose)
    tasks = len(world.data.schema.tasks)
    samples = compare_latency(runners, queries, MonotonicClock(), args.seconds, tasks=tasks)
    test = Scored(world.data.test, predict(model, world.data.test))
    rng = np.random.default_rng(SEED)
    court = Judge(test, world.guard, len(compositions), rng, world.data.train)
    flops = count_cost(model, world.data.schema).flops
    rows = []
    for name, composition in compositions.items():
        stage = ways[name].stage
        ratios = ratios_of(samples, name)
        guard = court.of(composition)
        rows.append(
            {
                "way": name,
                "composition": f"tables {composition.tables}, dense {composition.dense}",
                "ratio": ratios,
                "flops": count_cost(stage.model, stage.schema).flops / flops,
                "table_bytes": sum(p.records.nbytes for p in composition.table_parts.values()),
                "size_bytes": composition.size_bytes,
                "guard": msgspec.to_builtins(guard),
            }
        )
    return rows


def settings_of(world: World, args: argparse.Namespace) -> OptimizeSettings:
    return OptimizeSettings(
        tables=("f32", "int8", "int4"),
        dense=("f32", "int8"),
        sizes=SIZES,
        measure_s=args.seconds,
        guard=world.guard,
    )


def queries_from(rows: Dataset) -> dict[int, Any]:
    rng = np.random.default_rng(SEED)
    return {size: sample_queries(rows, size, 64, rng) for size in SIZES}


def ratios_of(samples: Mapping[str, Mapping[int, Any]], name: str) -> dict[str, float]:
    """Return median latency over that of the original in torch eager, by query size."""
    return {
        str(size): float(np.median(ns) / np.median(samples["original"][size]))
        for size, ns in samples[name].items()
    }


def grown(stage: Stage, full: Schema, seed: int) -> tuple[nn.Module, Schema]:
    """Return a model with tables as long as in ``full``, their rows drawn from those it has."""
    model = copy.deepcopy(stage.model)
    rng = np.random.default_rng(seed)
    rows = {table.name: table.rows for table in full.tables}
    dims = {table.name: table.dim for table in stage.schema.tables}
    for table in stage.schema.tables:
        held = model.table(table.name)  # type: ignore[operator]
        drawn = torch.from_numpy(rng.integers(0, table.rows, rows[table.name]))
        held.weight = nn.Parameter(held.weight.detach()[drawn])
        held.num_embeddings = len(drawn)
    kept = {f.name for f in stage.schema.features}
    schema = Schema(
        features=tuple(f for f in full.features if f.name in kept),
        tables=tuple(
            msgspec.structs.replace(t, dim=dims[t.name]) for t in full.tables if t.name in dims
        ),
        tasks=full.tasks,
    )
    model.schema = schema
    return model, schema


def full_size(original: Stage, final: Stage, world: World, args: argparse.Namespace) -> Row:
    """Return the latency of the compressed model, and of the original, with all at full size."""
    full = zoo(world.zoo, "repo", max_rows=args.max_rows).schema
    before, before_schema = grown(original, full, SEED)
    after, after_schema = grown(final, full, SEED)
    rng = np.random.default_rng(SEED)
    sizes = {
        size: draw_queries(before_schema, np.full(8, size), rng, lengths="full") for size in SIZES
    }
    calibration = calibrating(after_schema)
    settings = msgspec.structs.replace(settings_of(world, args), tables=("int8",))
    lowered, _ = lower_explained(after, after_schema)
    found = build_compositions(lowered, after_schema, settings, calibration)
    best = min((c for c in found if c.tables == "int8"), key=lambda c: c.dense_us)
    runners = {"original": TorchRunner(before, before_schema), "all": best.model.runner()}
    tasks = len(full.tasks)
    samples = compare_latency(runners, sizes, MonotonicClock(), args.seconds, tasks=tasks)
    return {
        "rows": max(t.rows for t in full.tables),
        "ratio": ratios_of(samples, "all"),
        "p50_us": {
            name: {str(n): float(np.median(ns)) / 1000 for n, ns in taken.items()}
            for name, taken in samples.items()
        },
    }


def calibrating(schema: Schema) -> Dataset:
    """Return drawn rows that activations take their ranges from."""
    queries = draw_queries(schema, np.full(128, 16), np.random.default_rng(SEED), lengths="full")
    return Dataset(
        schema=schema,
        context=concat_columns([query.context for query in queries]),
        candidates=concat_columns([query.candidates for query in queries]),
        row_to_query=np.repeat(np.arange(len(queries), dtype=np.int64), 16),
        labels=np.zeros((16 * len(queries), len(schema.tasks)), np.float32),
    )


def measure(name: str, args: argparse.Namespace) -> Row:
    start = time.perf_counter()
    world = make_world(name, args.rows, args.data)
    model, told = train_world(world)
    print(f"  trained in {told['train_s']:.0f} s, valid AUC {told['valid_auc']:.4f}", flush=True)
    material = Material.of(model, world.data.train, world.data.valid)
    known: dict[str, Stage] = {}
    first = first_stage(model, world.data.schema)
    stages = stages_of(first, world.recipe, material, known)
    job = Job(
        name=name,
        model=model,
        data=world.data,
        provenance=Provenance(created_unix=0, headway="benchmark", model=name),
    )
    chance = (np.random.default_rng(SEED), MonotonicClock())
    chain = measure_chain(job, stages, settings_of(world, args), chance, sla=world.sla)
    row: Row = {"world": name, "scale": world.scale, **told, "chain": msgspec.to_builtins(chain)}
    if not args.no_ablation:
        row["ablation"] = ablation(model, world, material, known, args)
    if world.zoo:
        row["full"] = full_size(first, stages[-1], world, args)
    row["seconds"] = time.perf_counter() - start
    return row


def show(rows: Sequence[Row]) -> None:
    for row in rows:
        _show_chain(row)
        _show_ablation(row)
    _show_targets(rows)


def _show_chain(row: Row) -> None:
    chain = msgspec.convert(row["chain"], Chain)
    print(f"\n{row['world']}: {row['scale']}; {row['seconds']:.0f} s")
    head = f"  {'prefix':12}{'dense par.':>11}{'MFLOP':>8}{'bytes':>8}{'size':>9}"
    head += "".join(f"{f'N={n} torch | compiled ms':>26}" for n in SIZES)
    print(head + f"{f'1/s, {chain.sla}':>24}{'delta AUC [bounds]':>32}  verdict")
    for link in chain.links:
        cells = f"  {link.name:12}{link.dense_parameters:>11,}{link.flops / 1e6:>8.2f}"
        cells += f"{link.candidate_bytes:>8,}{link.size_bytes / 1e6:>7.1f}MB"
        for size in map(str, SIZES):
            eager = f"{link.eager[size].p50_us / 1000:.2f}" if link.eager else "-"
            own = link.compiled[size]
            cells += f"{f'{eager} | {own.p50_us / 1000:.2f} (p95 {own.p95_us / 1000:.2f})':>26}"
        eager_rate = "-" if link.eager_lbt_qps is None else f"{link.eager_lbt_qps:.0f}"
        cells += f"{f'{eager_rate} | {link.lbt_qps:.0f}':>24}"
        print(f"{cells}{_delta(msgspec.to_builtins(link.guard)):>32}  {link.guard.verdict}")


def _show_ablation(row: Row) -> None:
    for way in row.get("ablation", ()):
        print(
            f"  {way['way']:20}{way['composition']:28}"
            f"p50 at N = {AT} {way['ratio'][str(AT)]:.3f}x torch eager, "
            f"{way['flops']:.2f} of the FLOPs, {way['size_bytes'] / 1e6:.1f} MB, "
            f"delta AUC {_delta(way['guard'])}, {way['guard']['verdict']}"
        )
    if "full" in row:
        full = row["full"]
        cells = ", ".join(f"N = {n} {ratio:.3f}x" for n, ratio in full["ratio"].items())
        print(f"  all, with tables of {full['rows']:,} rows and full bags: {cells}")


def _delta(guard: Mapping[str, Any]) -> str:
    if guard["delta_auc"] is None:
        return "not a number"
    low, high = guard["delta_auc_low"], guard["delta_auc_high"]
    return f"{guard['delta_auc']:+.5f} [{low:+.5f}, {high:+.5f}]"


def _show_targets(rows: Sequence[Row]) -> None:
    made = [row for row in rows if row["world"].startswith("generated:")]
    print()
    for kind, ratios in (("at this scale", _chain_ratios(made)), ("full size", _full_ratios(made))):
        if ratios:
            mean = exp(sum(map(log, ratios.values())) / len(ratios))
            worst = max(ratios, key=lambda name: ratios[name])
            print(
                f"generated, {kind}: p50 at N = {AT} {mean:.3f}x torch eager as geometric mean of "
                f"{len(ratios)} of {len(EIGHT)} (target {MEAN_TARGET}x), worst {worst} "
                f"{ratios[worst]:.3f}x (target {SINGLE_TARGET}x)"
            )
    for row in made:
        last = row["chain"]["links"][-1]["guard"]
        print(f"{row['world']}: all, guard {last['verdict']} (target pass): {last['reason']}")
        ways = {way["way"]: way for way in row.get("ablation", ())}
        if "only int8" in ways:
            delta = abs(ways["only int8"]["guard"]["delta_auc"])
            print(f"  int8 alone: |delta AUC| {delta:.5f} (target {INT8_TARGET})")
        if "only int4 tables" in ways:
            way = ways["only int4 tables"]
            share = way["table_bytes"] / ways["only compiled"]["table_bytes"]
            verdict = way["guard"]["verdict"]
            print(f"  int4 tables: {share:.3f} of float32 (target {INT4_TARGET}), {verdict}")
        if row["world"].split(":")[1] in PRUNED and "only pruned" in ways:
            way, plain = ways["only pruned"], ways["only compiled"]
            wall = way["ratio"][str(AT)] / plain["ratio"][str(AT)]
            print(
                f"  pruning alone: {way['flops']:.2f} of the FLOPs (target {PRUNE_TARGET}), "
                f"{wall:.2f} of the compiled time, {way['guard']['verdict']}"
            )


def _chain_ratios(rows: Sequence[Row]) -> dict[str, float]:
    return {row["world"]: msgspec.convert(row["chain"], Chain).ratio(AT) for row in rows}


def _full_ratios(rows: Sequence[Row]) -> dict[str, float]:
    return {row["world"]: row["full"]["ratio"][str(AT)] for row in rows if "full" in row}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--rows", type=int, default=2_000_000, help="generated rows, all parts")
    parser.add_argument("--max-rows", type=int, default=500_000, help="of a table at full size")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each latency measurement")
    parser.add_argument("--no-ablation", action="store_true", help="the chain alone")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real data sets")
    parser.add_argument("--quick", action="store_true", help="two worlds, under five minutes")
    parser.add_argument(
        "--json", type=Path, help="write all figures there; worlds it holds already are not run"
    )
    args = parser.parse_args()
    if args.quick:
        args.worlds, args.rows, args.seconds = ["generated:ncf", "generated:rmc1"], 120_000, 4.0
        args.max_rows = 50_000
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    facts = machine_facts()
    print(f"{facts.cpu}, {time.strftime('%Y-%m-%d')}, one core, torch {torch.__version__}")
    rows: list[Row] = []
    if args.json is not None and args.json.exists():
        rows = json.loads(args.json.read_text())["worlds"]
    for name in args.worlds:
        if any(row["world"] == name for row in rows):
            continue
        if not name.startswith("generated:") and not args.data.is_dir():
            print(f"{name}: left out, there is no {args.data}; give --data")
            continue
        print(f"{name} ...", flush=True)
        rows.append(measure(name, args))
        show(rows[-1:])
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            told = {"machine": facts.cpu, "date": time.strftime("%Y-%m-%d"), "worlds": rows}
            args.json.write_text(json.dumps(told))
    show(rows)


if __name__ == "__main__":
    main()
