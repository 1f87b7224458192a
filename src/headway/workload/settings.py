"""A workload in one struct, and its short form on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.workload.arrivals import DeepRecSysCompat, Gamma, Poisson
from headway.workload.forms import read_workload
from headway.workload.modulated import Bursts, Diurnal, Steps
from headway.workload.replay import Counts, Trace
from headway.workload.sizes import (
    LARGEST,
    Sizes,
    fixed_sizes,
    histogram_sizes,
    lognormal_sizes,
    mlperf_sizes,
    normal_sizes,
    production_sizes,
)

Skew = Literal["zipf", "uniform"]
Lengths = Literal["drawn", "full"]
Arrivals = Poisson | Gamma | Bursts | Diurnal | Steps | Trace | Counts | DeepRecSysCompat


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which queries arrive.

    Attributes:
        sizes: the distribution of query sizes.
        size: every query's size where ``sizes`` is ``fixed``.
        mu: of the logarithm where ``sizes`` is ``lognormal``.
        sigma: of the logarithm where ``sizes`` is ``lognormal``.
        mean: where ``sizes`` is ``normal``.
        std: standard deviation where ``sizes`` is ``normal``.
        path: csv of ``size,count`` where ``sizes`` is ``histogram``.
        ids: ``zipf`` as in production, or ``uniform``, the worst case for caches.
        exponent: of the Zipf law; larger is more skewed.
        arrivals: when queries come.
    """

    sizes: Literal["production", "fixed", "lognormal", "normal", "mlperf", "histogram"] = (
        "production"
    )
    size: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    mu: float = 5.1
    sigma: Annotated[float, Meta(ge=0)] = 0.2
    mean: float = 165.0
    std: Annotated[float, Meta(ge=0)] = 16.0
    path: str = ""
    ids: Skew = "zipf"
    exponent: Annotated[float, Meta(ge=0, le=10)] = 1.05
    arrivals: Arrivals = Poisson()

    @property
    def draw_sizes(self) -> Sizes:
        """The source of query sizes.

        Raises:
            DataError: if a histogram cannot be read.
        """
        match self.sizes:
            case "fixed":
                return fixed_sizes(self.size)
            case "lognormal":
                return lognormal_sizes(self.mu, self.sigma, LARGEST)
            case "normal":
                return normal_sizes(self.mean, self.std, LARGEST)
            case "histogram":
                return histogram_sizes(Path(self.path))
            case "mlperf":
                return mlperf_sizes
            case "production":
                return production_sizes

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Read ``SIZES[,uniform][@ARRIVALS]``; files that it names are looked into at once.

        Sizes are ``production``, ``256``, ``fixed:256``, ``lognormal[:MU,SIGMA]``,
        ``normal[:MEAN,STD]``, ``mlperf`` or ``histogram:FILE``; arrivals are ``poisson``,
        ``gamma:CV``, ``bursts:FACTOR,SHARE[,SECONDS]``, ``diurnal:RATIO[,PERIOD_S[,PHASE]]``,
        ``steps:SECONDSxFACTOR,...``, ``trace:FILE[,SPEED]``, ``counts:FILE[,SPEED]`` or
        ``compat``. ``,uniform`` draws ids uniformly.

        Raises:
            UsageError: if the text has another form, naming the part and the forms there are.
            DataError: if a file cannot be read.
        """
        workload = read_workload(text, cls)
        _ = workload.draw_sizes
        workload.arrivals.check()
        return workload
