"""The scheduler's settings for one model on one machine."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.core.clock import Ns
from headway.core.errors import UsageError

Positive = Annotated[int, Meta(ge=1)]
_MOST = 1_000_000_000
Candidates = Annotated[int, Meta(ge=1, le=_MOST)]
Knots = tuple[tuple[int, int], ...]
"""Service times: (candidates, nanoseconds), candidates rising; joined by straight lines."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How queries become work.

    Attributes:
        workers: how many runners compute at the same time.
        threads: threads inside one runner's engine.
        policy: ``fixed``, one split size for all; or ``adaptive``, split and batch sizes that
            follow the load.
        split_size: largest number of candidates in one chunk; where the policy is adaptive, no
            chunk is larger, and it holds until service times are known.
        batch_candidates: chunks of several queries are put together up to this many
            candidates; 0 means one chunk at a time. An adaptive policy finds its own.
        queue_candidates: candidates that may wait; a query over it is refused.
        timeout_ns: a query's deadline where it names none.
        target_ns: latency that an adaptive policy aims at, the limit of the SLA.
        refuse_late: an adaptive policy turns away at the door what it foresees to miss the
            target, so that nothing is computed in vain; else only what will miss its deadline.
        accelerators: workers of a second kind.
        offload_candidates: a fixed policy sends queries of at least this size, whole, to the
            accelerators; 0 means none.
        service: how long a worker takes, by candidates; empty: learnt while serving.
        accelerator_service: the same for an accelerator.
        lighter_service: the same for a worker with a lighter bundle, which an adaptive policy
            turns to for what would else be refused; empty: there is none.
        tower_ns: part of ``service`` that the query tower takes. Later chunks of a query are
            spared it, and each further query of a batch adds it; 0: not known, or there is none.
    """

    workers: Positive = 1
    threads: Positive = 1
    policy: Literal["fixed", "adaptive"] = "fixed"
    split_size: Candidates = 1024
    batch_candidates: Annotated[int, Meta(ge=0, le=_MOST)] = 0
    queue_candidates: Candidates = 65_536
    timeout_ns: Annotated[Ns, Meta(ge=1)] = Ns(1_000_000_000)
    target_ns: Annotated[Ns, Meta(ge=1)] = Ns(25_000_000)
    refuse_late: bool = True
    accelerators: Annotated[int, Meta(ge=0)] = 0
    offload_candidates: Annotated[int, Meta(ge=0, le=_MOST)] = 0
    service: Knots = ()
    accelerator_service: Knots = ()
    lighter_service: Knots = ()
    tower_ns: Annotated[Ns, Meta(ge=0)] = Ns(0)

    def __post_init__(self) -> None:
        """Refuse service times that cannot be read as a line.

        Raises:
            UsageError: naming what is off.
        """
        for name, knots in (
            ("service", self.service),
            ("accelerator_service", self.accelerator_service),
            ("lighter_service", self.lighter_service),
        ):
            rows = [n for n, _ in knots]
            if rows != sorted(set(rows)) or any(n < 1 or ns < 1 for n, ns in knots):
                raise UsageError(
                    f"plan.{name} must hold positive (candidates, nanoseconds) by rising "
                    f"candidates, not {knots[:4]}"
                )
        if self.tower_ns and not self.service:
            raise UsageError("plan.tower_ns is a part of plan.service; give both or neither")
        check_tower("plan", self.tower_ns, self.service)
        if self.offload_candidates and not self.accelerators:
            raise UsageError(
                f"plan.offload_candidates is {self.offload_candidates} but there is no "
                "accelerator; set accelerators, or 0 to offload nothing"
            )


def shortest_ns(service: Knots) -> int:
    """Return the shortest time that service times tell, of one candidate or more; 0 of none."""
    if len(service) == 1:  # a line through zero
        ((rows, ns),) = service
        return ns // rows
    return min((ns for _, ns in service), default=0)


def check_tower(owner: str, tower_ns: int, service: Knots) -> None:
    """Refuse a query tower that takes longer than the chunks it is part of.

    Raises:
        UsageError: naming both, as fields of ``owner``.
    """
    least = shortest_ns(service)
    if tower_ns > least:
        raise UsageError(
            f"{owner}.tower_ns is {tower_ns}, more than the {least} ns that the smallest chunk "
            f"takes with it; give a part of {owner}.service"
        )


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
