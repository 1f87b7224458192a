"""Latency-bounded throughput of three schedulers on a simulated machine, and their tails.

All figures are simulated: 40 cores with the service times of torch eager measured on one core
(`eager_profiles.py`), without and with the accelerator whose speed was published, Poisson
arrivals, production sizes. Three plans: the static baseline (the largest query over all cores),
DeepRecSched (split size from 1 upward, then the offload threshold from 1 upward, each until the
first drop), and Headway's adaptive policy. What the policy refuses counts as a violation. Beside
them what the order of the released code comes to, and the policy without refusals.

Examples:
    python benchmarks/deeprecsys.py --quick
    python benchmarks/deeprecsys.py --jobs 2 --json out/deeprecsys.json --plot out/deeprecsys.png
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from math import ceil
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from options import amount, count, profiles, result_file
from resumed import Row, begun, keep
from simulated import (
    LARGEST,
    LEVELS,
    MEDIUM_MS,
    PROFILES,
    Prober,
    adaptive,
    bound_qps,
    fixed,
    machines,
    run,
    sla_of,
    with_gpu,
)

from headway.core import MonotonicClock, Plan, Sla
from headway.measure import estimate_percentiles
from headway.simulate import Machine
from headway.tune import Score, Trials, compat_climb, hill_climb

PUBLISHED = {"low": (1.7, 4.0), "medium": (2.1, 5.1), "high": (2.7, 5.8)}
LOADS = (0.3, 0.5, 0.7)
TAIL_TARGETS = {0.3: 0.6, 0.5: 0.5, 0.7: 0.7}
CURVE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
MOST_WORK = 20_000


def measure(model: str, level: str, args: argparse.Namespace) -> Row:
    """Return all throughputs of a model at a level, and its tails at the medium one."""
    began = time.perf_counter()
    sla = sla_of(model, level)
    machine = machines(args.profiles, args.cores, args.interference)[model]
    row: Row = {"model": model, "level": level, "sla_ms": sla.limit_ns / 1e6}
    known: dict[tuple[int, int], Score] = {}
    for kind, one in (("cpu", machine), ("gpu", with_gpu(machine, model))):
        row[kind] = throughputs(one, sla, known, args)
    if level == "medium":
        plans = {
            "static": fixed(machine, ceil(LARGEST / machine.cores)),
            "deeprecsched": fixed(machine, row["cpu"]["split"]),
            "headway": adaptive(machine, sla),
        }
        reference = row["cpu"]["deeprecsched"]
        row["tails"] = tails(machine, plans, reference, args)
        row["curves"] = curves(machine, plans, reference, args)
    row["seconds"] = time.perf_counter() - began
    return row


def throughputs(
    machine: Machine, sla: Sla, known: dict[tuple[int, int], Score], args: argparse.Namespace
) -> Row:
    """Return the throughput of each plan on one machine, and the bound.

    Plans that offload nothing are worth the same with an accelerator, so ``known`` keeps them.
    """
    rough = Prober(sla, args.queries // 5, 8, 0.05, most_work=MOST_WORK)
    fine = Prober(sla, args.queries // 2, 12, 0.02)
    bound = bound_qps(machine)
    static = ceil(LARGEST / machine.cores)

    def evaluate(plan: Plan) -> Score:
        key = (plan.split_size, plan.offload_candidates)
        if key not in known:
            known[key] = rough.score(machine, plan)
        return known[key]

    trials = Trials(evaluate, MonotonicClock())
    start = fixed(machine, LARGEST, LARGEST if machine.accelerators else 0)
    climbed = hill_climb(trials, start).best
    released = compat_climb(trials, start).best
    assert climbed is not None
    assert released is not None
    tuned = climbed.plan
    found = {
        "bound": bound,
        "in time": bound_qps(machine, sla.limit_ns),
        "static": fine.score(machine, fixed(machine, static)).lbt_qps,
        "deeprecsched": fine.lbt(machine, tuned, max(climbed.score.lbt_qps, 1.0)),
        "released": released.score.lbt_qps,
        "headway": fine.lbt(machine, adaptive(machine, sla), 0.9 * bound),
        "split": tuned.split_size,
        "offload": tuned.offload_candidates,
        "released split": released.plan.split_size,
    }
    if not machine.accelerators:
        patient = adaptive(machine, sla, refuse=False)
        found["patient"] = fine.lbt(machine, patient, 0.8 * bound)
    return found


def tails(
    machine: Machine, plans: dict[str, Plan], reference: float, args: argparse.Namespace
) -> list[Row]:
    """Return p95 and p99 in ms of each plan at parts of a throughput, one row per seed."""
    rows = []
    for load in LOADS:
        for seed in range(args.seeds):
            row: Row = {"load": load, "seed": seed}
            for name, plan in plans.items():
                record = run(machine, plan, reference * load, args.queries, seed)
                p95, p99 = estimate_percentiles(record.latency_ns, (95.0, 99.0))
                row[name] = (p95.value_ms, p99.value_ms)
            rows.append(row)
    return rows


def curves(
    machine: Machine, plans: dict[str, Plan], reference: float, args: argparse.Namespace
) -> Row:
    """Return (load, p95, p99) of each plan over rising load."""
    found: Row = {}
    for name, plan in plans.items():
        points = []
        for load in CURVE:
            record = run(machine, plan, reference * load, args.queries // 2, 11)
            p95, p99 = estimate_percentiles(record.latency_ns, (95.0, 99.0))
            points.append((load, p95.value_ms, p99.value_ms))
        found[name] = points
    return found


def mean(values: Iterable[float]) -> float:
    """Return the geometric mean of some values; 0 if one is 0."""
    found = np.array(list(values), np.float64)
    return float(np.exp(np.log(found).mean())) if (found > 0).all() else 0.0


def word(value: float, target: float, *, least: bool = True) -> str:
    met = value >= target if least else value <= target
    return f"(target {'at least' if least else 'at most'} {target:g}: {'met' if met else 'MISSED'})"


def show(rows: list[Row], args: argparse.Namespace) -> None:
    """Print all tables."""
    for kind, title in (("cpu", "cores alone"), ("gpu", "cores and one GTX 1080 Ti")):
        print(f"\nSIMULATED, {args.cores} {title}: queries/s that hold p95")
        head = ("model", "level", "p95 ms", "static", "DeepRecSched", "split", "offload")
        print(
            " | ".join(
                (
                    *head,
                    "released code",
                    "Headway",
                    "none refused",
                    "bound",
                    "in time",
                    "DRS/static",
                    "HW/static",
                )
            )
        )
        for row in rows:
            f = row[kind]
            cells = (
                row["model"], row["level"], f"{row['sla_ms']:g}", f"{f['static']:.0f}",
                f"{f['deeprecsched']:.0f}", str(f["split"]), str(f["offload"] or "-"),
                f"{f['released']:.0f}" if "released" in f else "-", f"{f['headway']:.0f}", f"{f['patient']:.0f}" if "patient" in f else "-",
                f"{f['bound']:.0f}", f"{f['in time']:.0f}" if "in time" in f else "-", ratio(f["deeprecsched"], f["static"]),
                ratio(f["headway"], f["static"]),
            )  # fmt: skip
            print(" | ".join(cells))
    show_means(rows)
    show_gap(rows)
    show_tails([row for row in rows if "tails" in row])


def ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}x" if base else "-"


def show_means(rows: list[Row]) -> None:
    print("\nGeometric means over the models against the static baseline on cores alone:")
    for level in dict.fromkeys(row["level"] for row in rows):
        some = [row for row in rows if row["level"] == level and row["cpu"]["static"]]
        if not some:
            print(f"  {level}: static serves none of the models")
            continue
        left = [row["model"] for row in rows if row["level"] == level and row not in some]
        for at, (kind, title) in enumerate((("cpu", "cores"), ("gpu", "cores and GPU"))):
            over = {
                name: mean(row[kind][name] / row["cpu"]["static"] for row in some)
                for name in ("deeprecsched", "headway", "bound")
            }
            print(
                f"  {level}, {title}: DeepRecSched {over['deeprecsched']:.2f}x (published "
                f"{PUBLISHED[level][at]:g}x), Headway {over['headway']:.2f}x, "
                f"bound {over['bound']:.2f}x"
                + (f"; without {', '.join(left)}, which static cannot serve" if left else "")
            )


def show_gap(rows: list[Row]) -> None:
    some = [row for row in rows if row["level"] == "medium"]
    for name, title in (("bound", "the bound"), ("in time", "the bound of batches in time")):
        bounded = [row for row in some if row["cpu"].get(name)]
        found = [row["cpu"] for row in bounded]
        if not found:
            continue
        kept = mean((f[name] / f["headway"]) for f in found)
        gap = mean((f[name] / f["deeprecsched"]) for f in found)
        closed = 1 - np.log(kept) / np.log(gap)
        print(
            f"\nGap to {title} at the medium target, as geometric mean: DeepRecSched is at "
            f"1/{gap:.3f}, Headway at 1/{kept:.3f}: {closed:.2f} of it closed {word(closed, 0.5)}"
        )
        parts = (f"{row['model']} {closed_by(row['cpu'], name):.2f}" for row in bounded)
        print("  for single models: " + ", ".join(parts))
    # Where even the best of DeepRecSched's plans bears no rate there is nothing to fall below.
    borne = [row for row in rows if row["cpu"]["deeprecsched"]]
    if not borne:
        return
    worst = min(borne, key=lambda r: r["cpu"]["headway"] / r["cpu"]["deeprecsched"])
    least = worst["cpu"]["headway"] / worst["cpu"]["deeprecsched"]
    print(
        f"Least over DeepRecSched: {least:.3f} {worst['model']} {worst['level']} {word(least, 0.98)}"
    )


def closed_by(f: Row, bound: str) -> float:
    gap = f[bound] - f["deeprecsched"]
    return float((f["headway"] - f["deeprecsched"]) / gap) if gap > 0 else 1.0


def show_tails(rows: list[Row]) -> None:
    if not rows:
        return
    print("\nTail of Headway over DeepRecSched's tuned plan, at parts of DeepRecSched's throughput")
    print("model | " + " | ".join(f"p95 at {load:.0%} | p99" for load in LOADS))
    ratios: dict[tuple[float, int], list[float]] = {}
    for row in rows:
        cells = []
        for load in LOADS:
            for place in (0, 1):
                own = [
                    t["headway"][place] / t["deeprecsched"][place]
                    for t in row["tails"]
                    if t["load"] == load
                ]
                ratios.setdefault((load, place), []).append(float(np.median(own)))
                cells.append(f"{np.median(own):.2f} [{min(own):.2f}, {max(own):.2f}]")
        print(f"{row['model']} | " + " | ".join(cells))
    for load in LOADS:
        for place, name in ((0, "p95"), (1, "p99")):
            value, target = mean(ratios[load, place]), TAIL_TARGETS[load]
            print(f"  {name} at {load:.0%}: {value:.2f}x {word(value, target, least=False)}")


def plot(rows: list[Row], path: Path) -> None:
    """Draw p95 and p99 over load, one row of panels per percentile."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    some = [row for row in rows if "curves" in row]
    if not some:  # curves are drawn at the medium target only
        return
    figure, axes = plt.subplots(2, len(some), figsize=(3.2 * len(some), 6), squeeze=False)
    for column, row in enumerate(some):
        for line, place in enumerate((1, 2)):
            axis = axes[line][column]
            for name, points in row["curves"].items():
                known = [(p[0], p[place]) for p in points if np.isfinite(p[place])]
                if known:
                    axis.plot(*zip(*known, strict=True), marker=".", label=name)
            axis.axhline(row["sla_ms"], color="grey", linewidth=0.7)
            axis.set_ylim(0, row["sla_ms"] * 1.5)
            axis.set_title(f"{row['model']}, {'p95' if line == 0 else 'p99'}", fontsize=9)
            axis.set_xlabel("load over DeepRecSched's throughput", fontsize=7)
            axis.set_ylabel("ms, simulated", fontsize=7)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"curves: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MEDIUM_MS), choices=list(MEDIUM_MS))
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--cores", type=count(), default=40)
    parser.add_argument(
        "--profiles", type=profiles, default=PROFILES, help="from eager_profiles.py"
    )
    parser.add_argument(
        "--interference",
        type=amount(1),
        default=1.1,
        help="how many times longer a core takes when all are busy; more where more was measured",
    )
    parser.add_argument("--queries", type=count(100), default=8_000, help="of a run at least")
    parser.add_argument("--seeds", type=count(), default=3, help="of the tails")
    parser.add_argument("--jobs", type=count(), default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="two models, one target, short runs")
    parser.add_argument(
        "--json", type=result_file, help="write all figures there; what it holds is not run again"
    )
    parser.add_argument("--plot", type=result_file, default=Path("out/deeprecsys.png"))
    args = parser.parse_args()
    if args.quick:
        args.models, args.levels = args.models[:2], ["medium"]
        args.queries, args.seeds = min(args.queries, 4000), 1
    told = json.loads(args.profiles.read_text())
    print(
        f"Service times: {told['engine']} on {told['machine']}, {told['date']}; all cores busy, "
        f"a core takes {args.interference:g} times as long (assumed; more where the profile says so)",
        flush=True,
    )
    settings = {name: getattr(args, name) for name in ("cores", "queries", "seeds", "interference")}
    settings["profiles"] = sha256(args.profiles.read_bytes()).hexdigest()
    rows = begun(args.json, settings)
    known = {(row["model"], row["level"]) for row in rows}
    cells = [(model, level) for level in args.levels for model in args.models]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(partial(_cell, args=args), [c for c in cells if c not in known]):
            rows.append(row)
            print(f"  {row['model']}, {row['level']}: {row['seconds']:.0f} s", flush=True)
            keep(args.json, settings, rows)
    rows = [row for row in rows if (row["model"], row["level"]) in cells]
    show(rows, args)
    plot(rows, args.plot)


def _cell(cell: tuple[str, str], args: argparse.Namespace) -> Row:
    return measure(*cell, args)


if __name__ == "__main__":
    main()
