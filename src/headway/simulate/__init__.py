"""The scheduler that serves on a virtual clock, from one machine to a thousand."""

from headway.simulate.host import Host
from headway.simulate.machine import (
    GTX_1080_TI,
    Machine,
    Speedups,
    accelerated,
    best_rate,
    capacity,
    knots_of,
    ratios_of,
)
from headway.simulate.run import Simulated, simulate, simulate_stream

__all__ = [
    "GTX_1080_TI",
    "Host",
    "Machine",
    "Simulated",
    "Speedups",
    "accelerated",
    "best_rate",
    "capacity",
    "knots_of",
    "ratios_of",
    "simulate",
    "simulate_stream",
]
