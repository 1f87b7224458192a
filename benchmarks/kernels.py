"""Table lookups against this machine's own random reads, and against torch's EmbeddingBag.

One thread, all tables of a model in one call, sum pooling, uniform ids (the worst case for
caches). Kernels, limits and torch take turns on ids that rotate; medians count. The
limit is the machine reading the same rows without using them, at the best distance of asking
ahead. torch holds its tables as it allocates them, Headway in large pages: that is part of it.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headway.bundle import Lookup, TableFormat, TowerEntry, pack_table
from headway.core import (
    Bag,
    Column,
    IdFeature,
    MonotonicClock,
    Ragged,
    Schema,
    Scope,
    Sparse,
    Table,
)
from headway.engine import TableRecords, machine_facts
from headway.engine.probe import AHEAD
from headway.engine.probe_kernels import read_rows
from headway.engine.tables import Gather

FORMATS: tuple[TableFormat, ...] = ("f32", "bf16", "int8", "int4")
LIMIT_TARGET, TORCH_TARGET, FROM_ROWS, CALL_TARGET_US = 1.25, 1.4, 64, 30.0
Batch = list[Ragged]
Engine = Callable[[Batch], object]
Samples = dict[str, NDArray[np.float64]]
CLOCK = MonotonicClock()


def gather_of(features: list[IdFeature], records: list[TableRecords]) -> Gather:
    dim = records[0].dim
    tables = [
        Table(name=f.table, rows=len(r.records), dim=dim)
        for f, r in zip(features, records, strict=True)
    ]
    layout = TowerEntry(
        path="",
        precision="f32",
        inputs=("embedded",),
        outputs=("output",),
        lookups=tuple(
            Lookup(feature=f.name, table=f.table, start=dim * i, width=dim)
            for i, f in enumerate(features)
        ),
        embedded_width=dim * len(features),
    )
    stored = {t.name: r for t, r in zip(tables, records, strict=True)}
    schema = Schema(features=tuple(features), tables=tuple(tables))
    return Gather(schema, Scope.CANDIDATE, stored, layout)


def headway_engine(records: list[TableRecords]) -> Engine:
    features: list[IdFeature] = [
        Bag(name=f"bag{i}", table=f"table{i}", scope=Scope.CANDIDATE, max_length=10_000)
        for i in range(len(records))
    ]
    gather = gather_of(features, records)

    def run(batch: Batch) -> object:
        columns: dict[str, Column] = {f"bag{i}": bag for i, bag in enumerate(batch)}
        feed: dict[str, NDArray[Any]] = {}
        gather.run([(columns, 0, len(batch[0]))], len(batch[0]), feed)
        return feed["embedded"]

    return run


def limit_engine(records: list[TableRecords], ahead: int) -> Engine:
    places = [(table.records.ctypes.data, table.records.shape[1]) for table in records]

    def run(batch: Batch) -> object:
        for (address, row_bytes), bag in zip(places, batch, strict=True):
            read_rows(address, row_bytes, bag.values, ahead)
        return None

    return run


def torch_engine(tables: list[NDArray[np.float32]]) -> Engine:
    bags = []
    for values in tables:
        bag = torch.nn.EmbeddingBag(
            len(values), values.shape[1], mode="sum", include_last_offset=True
        )
        with torch.no_grad():
            bag.weight.copy_(torch.from_numpy(values))
        bags.append(bag)

    def run(batch: Batch) -> object:
        with torch.inference_mode():
            pooled = [
                bag(torch.from_numpy(ids.values), torch.from_numpy(ids.offsets))
                for bag, ids in zip(bags, batch, strict=True)
            ]
            return torch.cat(pooled, dim=1)

    return run


def measure(
    engines: dict[str, Engine], batches: list[Batch], seconds: float, rng: np.random.Generator
) -> Samples:
    """Return nanoseconds per row looked up, a value per turn; engines stand in a random order.

    Each has another batch than the one before it, which would find the rows in the cache.
    """
    samples: dict[str, list[float]] = {name: [] for name in engines}
    looked_up = sum(len(bag.values) for bag in batches[0])
    for run in engines.values():
        run(batches[0])
    end, turn = CLOCK.now() + round(seconds * 1e9), 0
    while turn < 5 * len(engines) or CLOCK.now() < end:
        for name in rng.permutation(list(engines)):
            start = CLOCK.now()
            engines[name](batches[turn % len(batches)])
            samples[name].append((CLOCK.now() - start) / looked_up)
            turn += 1
    return {name: np.array(values) for name, values in samples.items()}


def engines_of(given: argparse.Namespace, rng: np.random.Generator) -> dict[str, Engine]:
    shape = (given.rows, given.dim)
    tables = [rng.standard_normal(shape, np.float32) for _ in range(given.tables)]
    engines = {"torch f32": torch_engine(tables)}
    batches = draw(given, 64, rng)
    for form in FORMATS:
        records = [TableRecords(form, given.dim, pack_table(t, form)).resident() for t in tables]
        engines[form] = headway_engine(records)
        limits = {str(ahead): limit_engine(records, ahead) for ahead in AHEAD}
        found = measure(limits, batches, given.seconds / 8, rng)
        engines[f"limit {form}"] = limits[min(found, key=lambda name: np.median(found[name]))]
    return engines


def draw(given: argparse.Namespace, size: int, rng: np.random.Generator) -> list[Batch]:
    offsets = np.arange(size + 1) * given.ids
    count = max(4, 512 // size)
    return [
        [
            Ragged(rng.integers(0, given.rows, size * given.ids), offsets)
            for _ in range(given.tables)
        ]
        for _ in range(count)
    ]


def figures(found: Samples) -> list[dict[str, Any]]:
    """Return a line per format: ns per row, the limit, and medians of the ratios turn by turn.

    What else the machine does slows neighbours in a turn alike, so ratios are steadier than times.
    """
    torch_ns = found["torch f32"]
    return [
        {
            "format": form,
            "ns_per_row": float(np.median(found[form])),
            "limit_ns": float(np.median(found[f"limit {form}"])),
            "over_limit": float(np.median(found[form] / found[f"limit {form}"])),
            "torch_f32_ns": float(np.median(torch_ns)),
            "over_torch": float(np.median(torch_ns / found[form])),
        }
        for form in FORMATS
    ]


def call_overhead(seconds: float, rng: np.random.Generator) -> float:
    """Return microseconds of one call as NCF makes it: four tables, one row, one id each."""
    rows, dim = 100_000, 64
    features: list[IdFeature] = [
        Sparse(name=f"id{i}", table=f"table{i}", scope=Scope.CANDIDATE) for i in range(4)
    ]
    values = rng.standard_normal((rows, dim), np.float32)
    gather = gather_of(features, [TableRecords.from_f32(values).resident() for _ in features])
    columns = [{f.name: rng.integers(0, rows, 1) for f in features} for _ in range(4096)]
    samples: list[int] = []
    end = CLOCK.now() + round(seconds * 1e9)
    while len(samples) < 1000 or CLOCK.now() < end:
        given: Any = columns[len(samples) % len(columns)]
        start = CLOCK.now()
        gather.run([(given, 0, 1)], 1, {})
        samples.append(CLOCK.now() - start)
    return float(np.median(samples)) / 1000


def show(size: int, lines: list[dict[str, Any]]) -> None:
    due = size >= FROM_ROWS
    for line in lines:
        limit_met = "" if not due else " met" if line["over_limit"] <= LIMIT_TARGET else " MISSED"
        torch_met = " met" if line["over_torch"] >= TORCH_TARGET else " missed"
        print(
            f"{size:5} {line['format']:>6} {line['ns_per_row']:10.1f} {line['limit_ns']:8.1f} "
            f"{line['over_limit']:8.2f}x{limit_met:8}{line['torch_f32_ns']:10.1f} "
            f"{line['over_torch']:8.2f}x{torch_met:8}",
            flush=True,
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=32)
    parser.add_argument("--rows", type=int, default=120_000, help="RMC2 has 500,000")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=120, help="ids in a bag")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=20.0, help="per size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    given = parser.parse_args()
    if given.quick:
        given.seconds = min(given.seconds, 12.0)
    return given


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    facts = machine_facts()
    print(
        f"{facts.cpu}: {given.tables} tables of {given.rows} x {given.dim}, {given.ids} ids a bag"
    )
    call_us = call_overhead(1.0, rng)
    print(
        f"one call, 4 tables, 1 row, 1 id: {call_us:.1f} us "
        f"(a whole Runner call may take {CALL_TARGET_US:g} us)"
    )
    engines = engines_of(given, rng)
    print(
        f"{'rows':>5} {'format':>6} {'ns per row':>10} {'limit':>8} "
        f"{f'target {LIMIT_TARGET}x':>17}{'torch f32':>10} {f'target {TORCH_TARGET}x':>17}"
    )
    result: dict[str, list[dict[str, Any]]] = {}
    for size in given.sizes:
        result[str(size)] = figures(measure(engines, draw(given, size, rng), given.seconds, rng))
        show(size, result[str(size)])
    if given.json:
        settings = {k: v for k, v in vars(given).items() if k != "json"}
        report = {
            "machine": facts.cpu,
            "python": platform.python_version(),
            "settings": settings,
            "targets": {"over_limit": LIMIT_TARGET, "over_torch": TORCH_TARGET},
            "call_us": call_us,
            "rows": result,
        }
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
