"""What goes wrong with the machines of a fleet: outages, failures, stragglers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]


class Outage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines that go away at a known moment.

    Attributes:
        at_s: when.
        machines: how many of those that take queries, the oldest first.
    """

    at_s: Seconds
    machines: Annotated[int, Meta(ge=1)] = 1


class Failures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How machines go away, and what becomes of their queries.

    All is noticed at once: no time passes until a balancer leaves out a machine that is away.

    Attributes:
        mean_s: exponential mean time until a machine goes away by itself; 0: never.
        outages: at known moments.
        back_s: until a machine that went away takes queries again.
        retry: its unanswered queries are sent to another machine, once; else they have failed.
    """

    mean_s: Seconds = 0.0
    outages: tuple[Outage, ...] = ()
    back_s: Seconds = 30.0
    retry: bool = True


class Stragglers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines that take longer than they should.

    Attributes:
        share: of the machines, rounded, spread evenly over the order in which they start; or of
            each one's time.
        factor: on their service times.
        of: ``machines``, the same ones all the time; or ``time``, all of them now and then.
        spell_s: exponential mean time that a machine is slow at a stretch, where ``of`` is
            ``time``.
    """

    share: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    factor: Annotated[float, Meta(ge=1)] = 3.0
    of: Literal["machines", "time"] = "machines"
    spell_s: Annotated[float, Meta(gt=0)] = 10.0


class Faults(msgspec.Struct, frozen=True):
    """Both."""

    failures: Failures | None = None
    stragglers: Stragglers | None = None
