"""A tail-latency target: a percentile and a limit."""

from __future__ import annotations

import re

import msgspec

from headway.core.clock import Ns, from_seconds, to_ms
from headway.core.errors import UsageError

_PATTERN = re.compile(r"^p(\d{1,2}(?:\.\d+)?)\s*(?:<=|=)\s*(\d+(?:\.\d+)?)(us|ms|s)$")
_UNIT = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Sla(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds when ``percentile`` per cent of queries take at most ``limit_ns``.

    A query's time runs from its intended arrival to its last score; shed and late queries
    count as violations.
    """

    percentile: float = 95.0
    limit_ns: Ns = Ns(25_000_000)

    def __post_init__(self) -> None:
        """Refuse percentiles and limits that mean nothing.

        Raises:
            UsageError: for a percentile outside (0, 100) or a limit that is not positive.
        """
        if not 0 < self.percentile < 100:
            raise UsageError(f"an SLA's percentile lies between 0 and 100, not {self.percentile}")
        if self.limit_ns <= 0:
            raise UsageError(f"an SLA's limit must be positive, not {self.limit_ns} ns")

    def __str__(self) -> str:
        return f"p{self.percentile:g} <= {to_ms(self.limit_ns):g} ms"


def parse_sla(text: str) -> Sla:
    """Read ``p95=25ms`` or ``p99.9<=1s``.

    Raises:
        UsageError: if the text has another form.
    """
    match = _PATTERN.match(text.strip())
    if match is None:
        raise UsageError(f"cannot read the SLA {text!r}; write it like p95=25ms or p99.9=1s")
    percentile, limit, unit = match.groups()
    return Sla(percentile=float(percentile), limit_ns=from_seconds(float(limit) * _UNIT[unit]))
