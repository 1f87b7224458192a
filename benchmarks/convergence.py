"""How many evaluations each search of a plan takes, and how close to the best of a grid it comes.

SIMULATED: cores and one accelerator (see deeprecsys.py), medium targets. The hill climb of
DeepRecSched, the order of its released code, the joint walk and the Bayesian search over the
whole plan (policies, batches and refusals too, so they may beat any grid of split and
threshold), and the exhaustive grid. Every search pays for its own evaluations, though equal ones
are run once.

Examples:
    python benchmarks/convergence.py --quick
    python benchmarks/convergence.py --json out/convergence.json
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import numpy as np
from options import count, profiles, result_file
from simulated import (
    LARGEST,
    MEDIUM_MS,
    PROFILES,
    Prober,
    adaptive,
    fixed,
    machines,
    sla_of,
    with_gpu,
)

from headway.core import MonotonicClock
from headway.tune import (
    BayesSettings,
    Budget,
    Found,
    JointSettings,
    Space,
    Trials,
    bayes,
    compat_climb,
    exhaustive,
    hill_climb,
    joint,
)

SPLITS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
THRESHOLDS = (0, 64, 128, 256, 384, 512, 640, 768, 896, 960)
WITHIN_TARGET, COST_TARGET = 0.95, 0.1
Row = dict[str, Any]


def searches(model: str, args: argparse.Namespace) -> list[Row]:
    """Run all searches on one machine."""
    machine = with_gpu(machines(args.profiles, args.cores, 1.1)[model], model)
    sla = sla_of(model, "medium")
    prober = Prober(sla, args.queries, 8, 0.03, most_work=20_000)
    trials = Trials(partial(prober.score, machine), MonotonicClock())
    start = fixed(machine, LARGEST, LARGEST)
    grid_splits, thresholds = (
        (SPLITS[1::3], THRESHOLDS[::3]) if args.quick else (SPLITS, THRESHOLDS)
    )
    settings = JointSettings(
        space=Space(workers=(machine.cores,), offload_candidates=THRESHOLDS), restarts=2
    )
    walked, modelled = (
        Trials(partial(prober.score, machine), MonotonicClock(), Budget(evaluations=40))
        for _ in range(2)
    )
    found: dict[str, Found] = {
        "grid": exhaustive(trials, start, grid_splits, thresholds),
        "hill climb": hill_climb(trials, start),
        "released code": compat_climb(trials, start),
        "joint": joint(
            walked, [start, adaptive(machine, sla)], settings, np.random.default_rng(args.seed)
        ),
        "joint, Bayesian": bayes(
            modelled,
            [start, adaptive(machine, sla)],
            BayesSettings(space=settings.space),
            np.random.default_rng(args.seed),
        ),
    }
    best = qps_of(found["grid"])
    count = len(found["grid"].trials)
    return [
        {
            "model": model,
            "search": name,
            "evaluations": len({t.plan for t in result.trials}),
            "of_grid": len({t.plan for t in result.trials}) / count,
            "qps": qps_of(result),
            "of_best": qps_of(result) / best if best else 0.0,
            "cpu_s": sum(t.score.cost_s for t in {t.plan: t for t in result.trials}.values()),
            "plan": described(result),
        }
        for name, result in found.items()
    ]


def qps_of(found: Found) -> float:
    return found.best.score.lbt_qps if found.best else 0.0


def described(found: Found) -> str:
    if found.best is None:
        return "-"
    plan = found.best.plan
    if plan.policy == "adaptive":
        return f"adaptive, {'refusing' if plan.refuse_late else 'patient'}"
    return (
        f"split {plan.split_size}, batch {plan.batch_candidates}, offload {plan.offload_candidates}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["wnd", "rmc3"], choices=list(MEDIUM_MS))
    parser.add_argument("--cores", type=count(), default=40)
    parser.add_argument("--profiles", type=profiles, default=PROFILES)
    parser.add_argument("--queries", type=count(100), default=2000, help="of a run at least")
    parser.add_argument("--seed", type=count(0), default=0)
    parser.add_argument("--quick", action="store_true", help="one model, a coarse grid")
    parser.add_argument("--json", type=result_file, help="write the figures there")
    args = parser.parse_args()
    if args.quick:
        args.models, args.queries = args.models[:1], 1000
    print(
        "SIMULATED model | search | evaluations | of the grid's | queries/s | of the grid's best | plan"
    )
    rows: list[Row] = []
    for model in args.models:
        for row in searches(model, args):
            rows.append(row)
            print(
                f"{row['model']} | {row['search']} | {row['evaluations']} | {row['of_grid']:.0%} | "
                f"{row['qps']:.0f} | {row['of_best']:.1%} | {row['plan']}",
                flush=True,
            )
    climbs = [row for row in rows if row["search"] == "hill climb"]
    close, dear = min(r["of_best"] for r in climbs), max(r["of_grid"] for r in climbs)
    print(
        f"hill climb: at least {close:.1%} of the grid's best (target {WITHIN_TARGET:.0%}: "
        f"{'met' if close >= WITHIN_TARGET else 'MISSED'}) for at most {dear:.0%} of its evaluations "
        f"(target {COST_TARGET:.0%}: {'met' if dear <= COST_TARGET else 'MISSED'})"
    )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
