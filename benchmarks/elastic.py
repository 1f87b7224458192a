"""Elastic serving against provision for the peak, on three loads that change.

All figures are simulated: replicas of one core with the service times of torch eager measured on
one core (`eager_profiles.py`), production sizes, the product's balancer, schedulers and scaling
policies. Loads: the Azure trace of conversations (58 minutes) and the Azure Functions day, both
as counts scaled to the rate whose peak needs the replicas asked for, and a burst to ten times
the rate. Time is compressed: start-up, looks and holds of the policies by as much as the load,
but not the service times and the target. So an overload of a minute lasts shorter beside the
target than it would; that flatters all policies alike. Seconds are printed in the load's own time.

The target: at most 60 % of the machine-hours of static peak with no more seconds in violation.
A query that is refused is over the target; one that the lighter bundle answers is not, but is
counted, for its answer is not that of the full model.

Examples:
    python benchmarks/elastic.py --quick
    python benchmarks/elastic.py --data ../shared/data --json out/elastic.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from options import amount, count, existing_folder, profiles, result_file
from simulated import MEDIUM_MS, PROFILES, adaptive, machines, sla_of

from headway.core import Sla
from headway.simulate import (
    Autoscale,
    Fixed,
    FleetJob,
    FleetRun,
    FleetSpec,
    Forecast,
    MachineKind,
    Oracle,
    SizingSettings,
    Utilisation,
    machines_for,
    run_job,
    scaled,
)
from headway.workload import Counts, Steps, Workload
from headway.workload.files import read_counts, read_moments

TARGET = 0.6
LLM = Path("traces-azure-llm", "AzureLLMInferenceTrace_conv.csv.gz")
DAY = Path("traces-azure-functions", "azfunc2019.1350functions.per_minute.csv.gz")
BIN_S = 30.0
RESERVE = 0.1
MOST = 1024
BURST = ((1200.0, 1.0), (600.0, 10.0), (1800.0, 1.0))
LOADS = ("conversations", "day", "burst")
Row = dict[str, Any]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A load that changes.

    Attributes:
        name: of it.
        arrivals: in compressed time.
        speed: how many of its seconds pass in one.
        seconds: of it, in its own time.
        peak: highest rate over the rate asked for.
        first: highest rate of its first two minutes over the rate asked for.
        needs: mean over highest rate: no policy takes a smaller share of static peak.
        window_s: in which the target must hold, in its own time.
    """

    name: str
    arrivals: Counts | Steps
    speed: float
    seconds: float
    peak: float
    first: float
    needs: float
    window_s: float


def loads(data: Path, folder: Path, args: argparse.Namespace) -> list[Load]:
    """Return the three loads; stand-ins, named so, where a trace is not there."""
    found: list[Load] = []
    for title, path, step_s, speed, window_s in (
        ("Azure conversations", data / LLM, BIN_S, args.speed, 60.0),
        ("Azure Functions day", data / DAY, 60.0, args.day_speed, 300.0),
    ):
        if path.exists():
            counts = moments_per_bin(path) if step_s == BIN_S else read_counts(path)
        else:
            counts = stand_in(int(step_s), args.seed)
        name = title if path.exists() else f"{title} (synthetic stand-in)"
        if args.quick:
            counts = counts[: len(counts) // 3]
        file = folder / f"{len(found)}.csv"
        file.write_text("count\n" + "\n".join(str(c) for c in counts))
        mean = counts.mean()
        found.append(
            Load(
                name=name, arrivals=Counts(str(file)), speed=speed, window_s=window_s,
                seconds=len(counts) * step_s, peak=counts.max() / mean,
                first=counts[: ceil(120 / step_s)].max() / mean, needs=mean / counts.max(),
            )
        )  # fmt: skip
    steps = tuple((seconds / args.speed, factor) for seconds, factor in BURST)
    found.append(
        Load(
            name="burst to ten times", arrivals=Steps(steps), speed=args.speed, window_s=60.0,
            seconds=sum(seconds for seconds, _ in BURST), peak=10.0, first=1.0,
            needs=sum(s * f for s, f in BURST) / sum(s for s, _ in BURST) / 10,
        )
    )  # fmt: skip
    return found


def moments_per_bin(path: Path) -> NDArray[np.float64]:
    """Return how many moments of a trace fall into each bin, the last one left out."""
    bins = (read_moments(path) / BIN_S).astype(int)
    return np.array(np.bincount(bins)[:-1], np.float64)


def stand_in(step_s: int, seed: int) -> NDArray[np.float64]:
    """Return a day or an hour of swinging counts with sudden peaks, where a trace is missing."""
    rng = np.random.default_rng([seed, step_s])
    steps = 116 if step_s == BIN_S else 1440
    swing = 1 - 0.4 * np.cos(2 * np.pi * np.arange(steps) / steps)
    peaks = 1 + (rng.random(steps) < 0.01) * rng.uniform(1, 3, steps)
    return np.asarray(np.rint(300 * swing * peaks * rng.lognormal(0, 0.1, steps)))


class Bench:
    """Replicas of one model, and the policies that say how many there are."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Find the throughput of a replica behind the balancer."""
        self.sla: Sla = sla_of(args.model, args.level)
        self.machine = machines(args.profiles, args.cores, args.interference)[args.model]
        self.args = args
        settings = SizingSettings(sla=self.sla, queries=args.queries, seed=args.seed)
        rate = 10_000.0
        self.lbt_qps = rate / machines_for(rate, self.kind(1), settings).machines

    def kind(self, count: int, *, refuse: bool = False, lighter: float = 0.0) -> MachineKind:
        """Return so many replicas at the start; a lighter bundle takes that share of the time."""
        plan = adaptive(self.machine, self.sla, refuse=refuse)
        if lighter:
            times = scaled(self.machine.service, lighter)
            plan = msgspec.structs.replace(plan, lighter_service=times)
        # No query is larger, and larger batches would not be in time; a new replica starts faster.
        plan = msgspec.structs.replace(plan, split_size=MOST)
        return MachineKind(name="replica", machine=self.machine, plan=plan, count=count)

    def needed(self, rate: float) -> int:
        """Return how many replicas bear a rate with a reserve for clusters of queries."""
        return max(1, ceil(rate / (self.lbt_qps * (1 - RESERVE))))

    def policies(self, load: Load, startup_s: float) -> dict[str, tuple[Any, bool, float]]:
        """Return the policies in compressed time, whether replicas refuse, and their lighter bundle."""
        speed, args = load.speed, self.args
        threshold = Utilisation(target=args.target, stabilise_s=300 / speed)
        plain = Forecast(
            smooth_s=60 / speed, headroom=RESERVE, hold_s=max(300.0, 2 * startup_s) / speed
        )
        learning = msgspec.structs.replace(plain, cover=args.cover, memory_s=3600 / speed)
        return {
            "static peak": (Fixed(), False, 0.0),
            "threshold": (threshold, False, 0.0),
            "forecast alone": (plain, False, 0.0),
            "forecast alone, lighter": (plain, True, args.lighter),
            "Headway": (learning, False, 0.0),
            "Headway, refusing": (learning, True, 0.0),
            "Headway, lighter": (learning, True, args.lighter),
            "oracle": (Oracle(headroom=RESERVE), False, 0.0),
        }

    def run(self, load: Load, name: str, startup_s: float) -> Row:
        """Simulate a load under a policy and return the figures in the load's own time."""
        began = time.perf_counter()
        policy, refuse, lighter = self.policies(load, startup_s)[name]
        rate = self.args.replicas * self.lbt_qps * (1 - RESERVE) / load.peak
        count = self.args.replicas if name == "static peak" else self.needed(rate * load.first)
        scale = Autoscale(
            policy=policy, look_s=15 / load.speed, startup_s=startup_s / load.speed,
            most=2 * self.args.replicas,
        )  # fmt: skip
        job = FleetJob(
            spec=FleetSpec(
                kinds=(self.kind(count, refuse=refuse, lighter=lighter),),
                sla=self.sla,
                autoscale=scale,
            ),
            workload=Workload(arrivals=load.arrivals),
            rate_qps=rate,
            duration_s=load.seconds / load.speed,
            window_s=load.window_s / load.speed,
            lbt_qps=(self.lbt_qps,),
        )
        run = run_job(job, self.args.seed)
        row = {"load": load.name, "policy": name, "startup_s": startup_s, **figures(run, load)}
        took = time.perf_counter() - began
        print(f"  {load.name}, {name}, {startup_s:g} s: {took:.0f} s", flush=True)
        return row


def figures(run: FleetRun, load: Load) -> Row:
    p95, p99 = (p.value_ms for p in run.latency.percentiles((95.0, 99.0)))
    return {
        "queries": run.queries,
        "violation_s": run.violation_s * load.speed,
        "over": run.violations / run.queries,
        "refused": run.refused / run.queries,
        "lightened": run.lightened / run.queries,
        "machine_hours": run.machine_hours * load.speed,
        "most": run.most_machines,
        "utilisation": run.utilisation,
        "p95_ms": p95,
        "p99_ms": p99,
        "missed_at_s": [round(w.start_s * load.speed) for w in run.windows if w.missed],
    }


def verdict(row: Row, static: Row) -> str:
    """Return whether hours and seconds in violation are within the target."""
    share = row["machine_hours"] / static["machine_hours"]
    met = share <= TARGET and row["violation_s"] <= static["violation_s"]
    return "met" if met else "MISSED"


def show(rows: list[Row], title: str) -> None:
    """Print one load: a row per policy."""
    static = rows[0]
    print(f"\nSIMULATED, {title}: {static['queries']:,} queries")
    print(
        "policy | start-up s | s in violation | queries over | refused | lighter | machine-hours of static "
        f"peak | most | p95 ms | p99 ms | target: at most {TARGET:.0%} and no more s"
    )
    for row in rows:
        share = row["machine_hours"] / static["machine_hours"]
        told = "-" if row is static else verdict(row, static)
        print(
            f"{row['policy']} | {row['startup_s']:g} | {row['violation_s']:.0f} | "
            f"{row['over']:.2%} | {row['refused']:.2%} | {row['lightened']:.2%} | {share:.0%} | {row['most']} | "
            f"{row['p95_ms']:.1f} | {row['p99_ms']:.1f} | {told}"
        )


def show_sensitivity(rows: list[Row]) -> None:
    """Print Headway's policy over the start-up delay."""
    print(
        "\nSIMULATED, Headway over the start-up delay: s in violation and machine-hours of static"
    )
    for name in dict.fromkeys(row["load"] for row in rows):
        own = [row for row in rows if row["load"] == name]
        static = next(row for row in own if row["policy"] == "static peak")
        cells = [
            f"{row['startup_s']:g} s: {row['violation_s']:.0f} s, "
            f"{row['machine_hours'] / static['machine_hours']:.0%}"
            for row in sorted(own, key=lambda r: float(r["startup_s"]))
            if row["policy"] == "Headway"
        ]
        print(f"  {name}: " + " | ".join(cells))


def measure(args: argparse.Namespace, folder: Path) -> Row:
    """Run and print everything."""
    bench = Bench(args)
    print(
        f"Replicas of {args.cores} core serve {args.model}, p95 within "
        f"{bench.sla.limit_ns / 1e6:g} ms; one bears {bench.lbt_qps:.1f} queries/s behind the "
        f"balancer. The peak needs {args.replicas}. Looks every 15 s, start-up "
        f"{args.startup:g} s; threshold {args.target:.0%}, held 300 s",
        flush=True,
    )
    rows: list[Row] = []
    for load in loads(args.data, folder, args):
        if not any(word in load.name for word in args.loads):
            continue
        own = [bench.run(load, name, args.startup) for name in bench.policies(load, args.startup)]
        title = f"{load.name}, {load.speed:g} times compressed, windows of {load.window_s:g} s; the rate is {load.needs:.0%} of its peak on average"
        show(own, title)
        rows += own + [bench.run(load, "Headway", startup) for startup in args.startups]
    if args.startups:
        show_sensitivity(rows)
    return {"lbt_qps": bench.lbt_qps, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=existing_folder, default=Path("../shared/data"), help="with the traces"
    )
    parser.add_argument(
        "--loads", nargs="+", default=list(LOADS), choices=list(LOADS), help="parts of their names"
    )
    parser.add_argument("--model", default="din", choices=list(MEDIUM_MS))
    parser.add_argument("--level", default="medium", choices=("low", "medium", "high"))
    parser.add_argument("--cores", type=count(), default=1, help="of a replica")
    parser.add_argument("--replicas", type=count(), default=30, help="that the peak needs")
    parser.add_argument("--startup", type=amount(), default=60.0, help="s from order to service")
    parser.add_argument(
        "--startups", type=amount(), nargs="*", default=[15.0, 180.0], help="shown beside it"
    )
    parser.add_argument(
        "--target", type=amount(0.01, 1), default=0.6, help="utilisation of the threshold"
    )
    parser.add_argument(
        "--cover", type=amount(0, 0.999), default=0.98, help="of the errors of forecasts"
    )
    parser.add_argument(
        "--lighter",
        type=amount(0.01, 1),
        default=0.25,
        help="time of the lighter bundle over the full one's",
    )
    parser.add_argument(
        "--speed", type=amount(0.01), default=40.0, help="of conversations and burst"
    )
    parser.add_argument("--day-speed", type=amount(0.01), default=150.0, help="of the day")
    parser.add_argument("--queries", type=count(100), default=2000, help="of a run that sizes")
    parser.add_argument("--interference", type=amount(1), default=1.1, help="see deeprecsys.py")
    parser.add_argument(
        "--profiles", type=profiles, default=PROFILES, help="from eager_profiles.py"
    )
    parser.add_argument("--seed", type=count(0), default=0)
    parser.add_argument("--quick", action="store_true", help="parts of the traces, one start-up")
    parser.add_argument("--json", type=result_file, help="write all figures there")
    args = parser.parse_args()
    if args.quick:
        args.startups, args.replicas = [], min(args.replicas, 10)
    with tempfile.TemporaryDirectory() as folder:
        told = measure(args, Path(folder))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
