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
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from compression_tables import SIZES, show
from resumed import Row, begun, keep
from torch import nn
from worlds import WORLDS, World, make_world

from headway.bundle import Provenance
from headway.compress import (
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
from headway.core import MonotonicClock, Runner, Schema, concat_columns
from headway.data import Dataset
from headway.engine import compare_latency, machine_facts
from headway.engine.torch_eager import TorchRunner
from headway.models import RankingModel, build_model, count_cost, predict, train, zoo
from headway.workload import draw_queries

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
    runners: dict[str, Runner] = {"original": TorchRunner(model, world.data.schema)}
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


def grown(stage: Stage, full: Schema, seed: int) -> tuple[RankingModel, Schema]:
    """Return a model with tables as long as in ``full``, their rows drawn from those it has."""
    model = copy.deepcopy(stage.model)
    assert isinstance(model, RankingModel)
    rng = np.random.default_rng(seed)
    rows = {table.name: table.rows for table in full.tables}
    dims = {table.name: table.dim for table in stage.schema.tables}
    for table in stage.schema.tables:
        held = model.table(table.name)
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
    eager: Runner = TorchRunner(before, before_schema)
    runners = {"original": eager, "all": best.model.runner()}
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
    settings = {
        name: getattr(args, name) for name in ("rows", "max_rows", "seconds", "no_ablation")
    }
    rows = begun(args.json, settings)
    for name in args.worlds:
        if any(row["world"] == name for row in rows):
            continue
        if not name.startswith("generated:") and not args.data.is_dir():
            print(f"{name}: left out, there is no {args.data}; give --data")
            continue
        print(f"{name} ...", flush=True)
        rows.append(measure(name, args))
        show(rows[-1:])
        keep(args.json, settings, rows, machine=facts.cpu, date=time.strftime("%Y-%m-%d"))
    show(rows)


if __name__ == "__main__":
    main()
