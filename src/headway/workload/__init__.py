"""What arrives and when: schedules, query sizes and encoded queries, all drawn from a seed."""

from headway.workload.access import AccessHistogram, read_access_histograms
from headway.workload.arrivals import DeepRecSysCompat, Gamma, Poisson, Process
from headway.workload.ids import DrawIds, Reuse, scatter, uniform_ids, zipf_ids, zipf_ranks
from headway.workload.mix import Mix, Part
from headway.workload.modulated import Bursts, Diurnal, Steps
from headway.workload.queries import draw_queries
from headway.workload.replay import Counts, Trace
from headway.workload.schedule import Schedule, draw_schedule, stream_schedule
from headway.workload.settings import Arrivals, Lengths, Skew, Workload
from headway.workload.sizes import (
    Sizes,
    fixed_sizes,
    histogram_sizes,
    lognormal_sizes,
    mlperf_sizes,
    normal_sizes,
    production_sizes,
)

__all__ = [
    "AccessHistogram",
    "Arrivals",
    "Bursts",
    "Counts",
    "DeepRecSysCompat",
    "Diurnal",
    "DrawIds",
    "Gamma",
    "Lengths",
    "Mix",
    "Part",
    "Poisson",
    "Process",
    "Reuse",
    "Schedule",
    "Sizes",
    "Skew",
    "Steps",
    "Trace",
    "Workload",
    "draw_queries",
    "draw_schedule",
    "fixed_sizes",
    "histogram_sizes",
    "lognormal_sizes",
    "mlperf_sizes",
    "normal_sizes",
    "production_sizes",
    "read_access_histograms",
    "scatter",
    "stream_schedule",
    "uniform_ids",
    "zipf_ids",
    "zipf_ranks",
]
