"""How the system treats threads that score: their priority, and the core they stay on."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence

from headway.core import Plan
from headway.server.settings import Priority

_log = logging.getLogger("headway.server")
_KINDS = {"normal": "SCHED_OTHER", "batch": "SCHED_BATCH", "idle": "SCHED_IDLE"}


def set_priority(priority: Priority) -> None:
    """Change how the system shares cores with the calling thread; nothing where it cannot."""
    kind = getattr(os, _KINDS[priority], None)
    if kind is None:
        return
    try:
        os.sched_setscheduler(0, kind, os.sched_param(0))
    except OSError as error:  # a container may forbid it, which only costs some latency
        _log.info("workers stay at normal priority: %s", error)


def cores_for(plan: Plan) -> Sequence[Collection[int]]:
    """Return for each worker of a plan the cores it may run on: one of its own, or all.

    None are returned where the system cannot say. The caller must be free to use all of them.

    With a worker for every core, one that is woken while the event loop has a core often lands
    behind another worker, and waits there for a millisecond and more though a core falls idle.
    With fewer workers there is an idle core to wake up on.
    """
    try:
        usable = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return ()
    if plan.workers == len(usable) and plan.threads == 1:
        return [(core,) for core in usable]
    return [usable] * plan.workers


def give_way() -> None:
    """Let a thread that waits for the caller's core go first; nothing where there is none.

    The system would leave the core to a thread that computes until its next tick, some
    milliseconds later, though the event loop, which was just woken, has an answer to send.
    """
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def keep_to(thread: int, cores: Collection[int]) -> None:
    """Let a thread, named by its native id, run on these cores only; nothing where it cannot."""
    try:
        os.sched_setaffinity(thread, cores)
    except OSError as error:  # a core may have been taken from this process meanwhile
        _log.info("a worker is not kept to cores %s: %s", cores, error)
