"""What a call of a runner costs beside the compiled code: NCF with one candidate.

A query goes through ``Runner.query`` and ``Runner.candidates``; the time inside the compiled lookups
and steps is taken away. What is left is Python: columns, arrays, names and checks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import headway
from headway.core import Piece
from headway.engine import kernels, load_model, machine_facts, products
from headway.models import build_model, zoo
from headway.workload import draw_queries

TARGET_US = 30.0


class Timed:
    """Stands in for a compiled function and adds up its time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.taken = function, 0

    def __call__(self, *given: Any) -> Any:
        """Call the function."""
        start = time.perf_counter_ns()
        found = self.function(*given)
        self.taken += time.perf_counter_ns() - start
        return found


def measure(folder: Path, candidates: int, rounds: int) -> dict[str, float]:
    made = zoo("ncf", style="repo", max_rows=50_000)
    model = build_model(made.settings, made.schema)
    headway.compile(model, made.schema, folder / "ncf", precision="reduced")
    runner = load_model(folder / "ncf", threads=1).runner()
    sizes = np.full(64, candidates)
    queries = draw_queries(made.schema, sizes, np.random.default_rng(0), ids="zipf")
    out = np.empty((candidates, 1), np.float32)

    def score(turn: int) -> None:
        query = queries[turn % len(queries)]
        hidden = runner.query(query.context)
        runner.candidates([Piece(hidden, query.candidates, 0, candidates, out)])

    compiled = products.run_steps, kernels.look_up
    whole, inside = np.empty(rounds), np.empty(rounds)
    for turn in range(rounds):
        start = time.perf_counter_ns()
        score(turn)
        whole[turn] = time.perf_counter_ns() - start
    timed = [Timed(function) for function in compiled]
    products.run_steps, kernels.look_up = timed
    for turn in range(rounds):
        for function in timed:
            function.taken = 0
        score(turn)
        inside[turn] = sum(function.taken for function in timed)
    products.run_steps, kernels.look_up = compiled
    us, compiled_us = (float(np.median(taken)) / 1000 for taken in (whole, inside))
    return {"whole_us": us, "compiled_us": compiled_us, "overhead_us": us - compiled_us}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=1, metavar="N")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; a few seconds")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    facts = machine_facts()
    print(f"{facts.cpu}, {facts.usable_cores} cores, {facts.system}; {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.candidates, 2_000 if args.quick else 20_000)
    print(f"ncf at N = {args.candidates}: {found['whole_us']:.1f} us a query, of which")
    print(f"  compiled code {found['compiled_us']:.1f} us")
    print(f"  the rest {found['overhead_us']:.1f} us (target {TARGET_US:g} us at N = 1)")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
