"""The machine's ceilings together, measured in one go, and what a piece of work must take."""

from __future__ import annotations

import msgspec
import numpy as np

from headway.core import Clock
from headway.engine.probe import RandomRead, SequentialRead, random_reads, sequential_reads
from headway.engine.probe_curves import curves_per_s
from headway.engine.probe_products import HAS_ONNX, ProductRate, product_rates

_SIZES = tuple(size << 10 for size in (256, 1024, 4096, 16384, 65536, 262144))
_ROW_BYTES = (24, 40, 64, 72, 128, 256)
_REGION_BYTES = 512 << 20


class Ceilings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one core of a machine can do at best.

    Attributes:
        sequential: reading buffers of rising size.
        random: reading rows at random places of a region larger than the caches, in large pages
            and in small ones.
        products: multiply-adds by precision and engine; the best of a precision counts.
        notes: what could not be measured and why.
        curves_per_s: sigmoids or hyperbolic tangents; 0 if not measured.
    """

    sequential: tuple[SequentialRead, ...]
    random: tuple[RandomRead, ...]
    products: tuple[ProductRate, ...]
    notes: tuple[str, ...] = ()
    curves_per_s: float = 0.0

    def read_ns(self, size_bytes: float) -> float:
        """Return the least time to read so many bytes in order, as of a buffer of that size."""
        at = min(self.sequential, key=lambda read: abs(np.log2(read.size_bytes / (size_bytes + 1))))
        return size_bytes / at.bytes_per_s * 1e9

    def product_ns(self, multiply_adds: float, precision: str) -> float | None:
        """Return the least time of products of a precision, or None if it was not measured.

        Args:
            multiply_adds: how many.
            precision: ``f32``, ``bf16``, or anything that begins with ``int8``.
        """
        kind = "int8" if precision.startswith("int8") else precision
        rates = [p.multiply_adds_per_s for p in self.products if p.precision == kind]
        return multiply_adds / max(rates) * 1e9 if rates else None

    def curve_ns(self, curves: float) -> float:
        """Return the least time of so many sigmoids or hyperbolic tangents."""
        return curves / self.curves_per_s * 1e9 if self.curves_per_s else 0.0


def measure_ceilings(
    clock: Clock,
    rng: np.random.Generator,
    *,
    seconds: float = 6.0,
    region_bytes: int = _REGION_BYTES,
) -> Ceilings:
    """Measure everything on the calling thread, products in every engine at hand.

    Args:
        clock: what tells the time.
        rng: draws random places.
        seconds: for all measurements together.
        region_bytes: memory for random reads; it is touched whole.
    """
    share = seconds / 4
    sizes = [size for size in _SIZES if size <= region_bytes]
    random = [
        random_reads(_ROW_BYTES, region_bytes, clock, rng, seconds=share, huge_pages=huge)
        for huge in (True, False)
    ]
    products = product_rates(clock, seconds=share)
    notes = []
    if not any(rate.precision == "bf16" for rate in products):
        notes.append("bf16 products are not measured: no engine here computes them faster")
    if not HAS_ONNX:
        notes.append("products are measured in Headway's own engine alone: onnx is not installed")
    return Ceilings(
        sequential=sequential_reads(sizes, clock, seconds=share),
        random=(*random[0], *random[1]),
        products=products,
        notes=tuple(notes),
        curves_per_s=curves_per_s(clock, seconds=share / 8),
    )
