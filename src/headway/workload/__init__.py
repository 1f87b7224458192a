"""What arrives and when: schedules, query sizes and encoded queries, all drawn from a seed."""

from headway.workload.queries import draw_queries, scatter, zipf_ranks
from headway.workload.schedule import Schedule, draw_schedule
from headway.workload.settings import Lengths, Skew, Workload
from headway.workload.sizes import Sizes, fixed_sizes, lognormal_sizes, production_sizes

__all__ = [
    "Lengths",
    "Schedule",
    "Sizes",
    "Skew",
    "Workload",
    "draw_queries",
    "draw_schedule",
    "fixed_sizes",
    "lognormal_sizes",
    "production_sizes",
    "scatter",
    "zipf_ranks",
]
