"""The scheduler that serves on a virtual clock, from one machine to a thousand."""

from headway.simulate.balance import BALANCERS, Balancer, make_balancer
from headway.simulate.capacity import (
    Sizing,
    SizingSettings,
    highest_qps,
    machine_lbt,
    machines_for,
)
from headway.simulate.faults import Failures, Outage, Stragglers
from headway.simulate.fleet import Autoscale, BalancerName, FleetSpec, simulate_fleet
from headway.simulate.host import Host
from headway.simulate.job import (
    FleetJob,
    FleetTotals,
    merge_latency,
    run_job,
    run_seeds,
    sum_up,
)
from headway.simulate.machine import (
    GTX_1080_TI,
    Machine,
    Speedups,
    accelerated,
    best_rate,
    busy_qps,
    capacity_qps,
    knots_of,
    ratios_of,
    scaled,
)
from headway.simulate.member import MachineKind
from headway.simulate.published import PUBLISHED, published_knots
from headway.simulate.run import Simulated, simulate, simulate_busy, simulate_stream
from headway.simulate.scale import Fixed, Forecast, Known, Oracle, Scaler, Signals, Utilisation
from headway.simulate.series import FleetRun, FleetWindow, percentiles_ms, series_length_s

__all__ = [
    "BALANCERS",
    "GTX_1080_TI",
    "PUBLISHED",
    "Autoscale",
    "Balancer",
    "BalancerName",
    "Failures",
    "Fixed",
    "FleetJob",
    "FleetRun",
    "FleetSpec",
    "FleetTotals",
    "FleetWindow",
    "Forecast",
    "Host",
    "Known",
    "Machine",
    "MachineKind",
    "Oracle",
    "Outage",
    "Scaler",
    "Signals",
    "Simulated",
    "Sizing",
    "SizingSettings",
    "Speedups",
    "Stragglers",
    "Utilisation",
    "accelerated",
    "best_rate",
    "busy_qps",
    "capacity_qps",
    "highest_qps",
    "knots_of",
    "machine_lbt",
    "machines_for",
    "make_balancer",
    "merge_latency",
    "percentiles_ms",
    "published_knots",
    "ratios_of",
    "run_job",
    "run_seeds",
    "scaled",
    "series_length_s",
    "simulate",
    "simulate_busy",
    "simulate_fleet",
    "simulate_stream",
    "sum_up",
]
