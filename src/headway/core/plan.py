"""The scheduler's settings for one model on one machine."""

from __future__ import annotations

from math import ceil
from typing import Annotated

import msgspec
from msgspec import Meta

from headway.core.clock import Ns
from headway.core.errors import UsageError

Positive = Annotated[int, Meta(ge=1)]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How queries become work.

    Attributes:
        workers: how many runners compute at the same time.
        threads: threads inside one runner's engine.
        split_size: largest number of candidates in one chunk.
        batch_candidates: chunks of several queries are put together up to this many
            candidates; 0 means one chunk at a time.
        queue_candidates: candidates that may wait; a query over it is refused.
        timeout_ns: a query's deadline where it names none.
    """

    workers: Positive = 1
    threads: Positive = 1
    split_size: Positive = 1024
    batch_candidates: Annotated[int, Meta(ge=0)] = 0
    queue_candidates: Positive = 65_536
    timeout_ns: Annotated[Ns, Meta(ge=1)] = Ns(1_000_000_000)


def static_baseline(cores: int, largest_query: int) -> Plan:
    """Return the plan DeepRecSys compares with: the largest query divided over all cores.

    Raises:
        UsageError: if there is no core, or no candidate in the largest query.
    """
    if cores < 1 or largest_query < 1:
        raise UsageError(
            f"{largest_query} candidates cannot be divided over {cores} cores; give at least "
            "one of each"
        )
    return Plan(workers=cores, split_size=max(1, ceil(largest_query / cores)))
