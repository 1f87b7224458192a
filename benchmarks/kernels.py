"""Nanoseconds per looked-up row: Headway's f32 and int8 kernels against torch's EmbeddingBag.

One thread, all tables of a model, sum pooling, uniform ids (the worst case for caches). The
engines take turns on the same ids, which rotate; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headway.bundle import Lookup, TowerEntry, pack_table
from headway.core import Bag, Column, MonotonicClock, Ragged, Schema, Scope, Table
from headway.engine import TableRecords, machine_facts
from headway.engine.tables import Gather

Batch = list[Ragged]
Engine = Callable[[Batch], object]


def headway_engine(records: list[TableRecords]) -> Engine:
    rows, dim = len(records[0].records), records[0].dim
    features = [
        Bag(name=f"bag{i}", table=f"table{i}", scope=Scope.CANDIDATE, max_length=10_000)
        for i in range(len(records))
    ]
    tables = tuple(Table(name=f.table, rows=rows, dim=dim) for f in features)
    schema = Schema(features=tuple(features), tables=tables)
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
    stored = {f"table{i}": table for i, table in enumerate(records)}
    gather = Gather(schema, Scope.CANDIDATE, stored, layout)

    def run(batch: Batch) -> object:
        columns: dict[str, Column] = {f"bag{i}": bag for i, bag in enumerate(batch)}
        feed: dict[str, NDArray[Any]] = {}
        gather.run([(columns, 0, len(batch[0]))], len(batch[0]), feed)
        return feed["embedded"]

    return run


def torch_engine(tables: list[NDArray[np.float32]]) -> Engine:
    bags = [
        torch.nn.EmbeddingBag.from_pretrained(
            torch.from_numpy(values), mode="sum", include_last_offset=True
        )
        for values in tables
    ]

    def run(batch: Batch) -> object:
        with torch.inference_mode():
            pooled = [
                bag(torch.from_numpy(ids.values), torch.from_numpy(ids.offsets))
                for bag, ids in zip(bags, batch, strict=True)
            ]
            return torch.cat(pooled, dim=1)

    return run


def measure(engines: dict[str, Engine], batches: list[Batch], seconds: float) -> dict[str, float]:
    clock = MonotonicClock()
    samples: dict[str, list[int]] = {name: [] for name in engines}
    for run in engines.values():
        run(batches[0])
    end, turn = clock.now() + round(seconds * 1e9), 0
    while turn < 5 or clock.now() < end:
        for name, run in engines.items():
            start = clock.now()
            run(batches[turn % len(batches)])
            samples[name].append(clock.now() - start)
        turn += 1
    looked_up = sum(len(bag.values) for bag in batches[0])
    return {name: float(np.median(values)) / looked_up for name, values in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=4)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--ids", type=int, default=80, help="ids in a bag")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=2.0, help="per size")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    shape = (given.rows, given.dim)
    tables = [rng.standard_normal(shape, np.float32) for _ in range(given.tables)]
    engines = {
        "torch f32": torch_engine(tables),
        "headway f32": headway_engine([TableRecords.from_f32(t).resident() for t in tables]),
        "headway int8": headway_engine(
            [TableRecords("int8", given.dim, pack_table(t, "int8")) for t in tables]
        ),
    }
    result: dict[str, dict[str, float]] = {}
    for size in given.sizes:
        offsets = np.arange(size + 1) * given.ids
        batches = [
            [Ragged(rng.integers(0, given.rows, size * given.ids), offsets) for _ in tables]
            for _ in range(max(3, 1024 // size))
        ]
        result[str(size)] = measure(engines, batches, given.seconds)
    report = {"machine": machine_facts().cpu, "python": platform.python_version()}
    report |= {"settings": vars(given), "ns_per_row": result}  # type: ignore[dict-item]
    if given.json:
        print(json.dumps(report))
        return
    print(f"{report['machine']}: {given.tables} tables of {given.rows} x {given.dim}, ns per row")
    print(f"{'rows in a batch':16}" + "".join(f"{name:>15}" for name in engines))
    for name, row in result.items():
        print(f"{name:16}" + "".join(f"{row[engine]:15.1f}" for engine in engines))


if __name__ == "__main__":
    main()
