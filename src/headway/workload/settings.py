"""A workload in one struct, and its short form on a command line."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.core import UsageError
from headway.workload.sizes import LARGEST, Sizes, fixed_sizes, lognormal_sizes, production_sizes

Skew = Literal["zipf", "uniform"]
Lengths = Literal["drawn", "full"]
_FIXED = re.compile(r"^(?:fixed:)?(\d+)$")
_LOGNORMAL = re.compile(r"^lognormal(?::(\d+(?:\.\d+)?),(\d+(?:\.\d+)?))?$")


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which queries arrive.

    Attributes:
        sizes: the distribution of query sizes.
        size: every query's size where ``sizes`` is ``fixed``.
        mu: of the logarithm where ``sizes`` is ``lognormal``.
        sigma: of the logarithm where ``sizes`` is ``lognormal``.
        ids: ``zipf`` as in production, or ``uniform``, the worst case for caches.
        exponent: of the Zipf law; larger is more skewed.
    """

    sizes: Literal["production", "fixed", "lognormal"] = "production"
    size: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    mu: float = 5.1
    sigma: Annotated[float, Meta(ge=0)] = 0.2
    ids: Skew = "zipf"
    exponent: Annotated[float, Meta(ge=0, le=10)] = 1.05

    @property
    def draw_sizes(self) -> Sizes:
        """The source of query sizes."""
        if self.sizes == "fixed":
            return fixed_sizes(self.size)
        if self.sizes == "lognormal":
            return lognormal_sizes(self.mu, self.sigma, LARGEST)
        return production_sizes

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Read ``production``, ``256``, ``fixed:256``, ``lognormal`` or ``lognormal:5.1,0.2``.

        ``,uniform`` at the end draws ids uniformly.

        Raises:
            UsageError: if the text has another form.
        """
        name = text.strip()
        ids: Skew = "zipf"
        if name.endswith(",uniform"):
            name, ids = name.removesuffix(",uniform"), "uniform"
        if name == "production":
            return cls(ids=ids)
        if (fixed := _FIXED.match(name)) and 1 <= int(fixed[1]) <= 1_000_000:
            return cls(sizes="fixed", size=int(fixed[1]), ids=ids)
        if lognormal := _LOGNORMAL.match(name):
            mu, sigma = lognormal.groups()
            return cls(sizes="lognormal", mu=float(mu or 5.1), sigma=float(sigma or 0.2), ids=ids)
        raise UsageError(
            f"cannot read the workload {text!r}; write production, fixed:256 or "
            "lognormal:5.1,0.2, with ,uniform at the end for uniform ids"
        )
