"""The decisions: splitting, batching, admission. Pure functions of state and time."""

from headway.scheduler.adaptive import AdaptivePolicy
from headway.scheduler.decisions import (
    Accepted,
    Admission,
    Arrival,
    Chunk,
    Completion,
    Load,
    Outcome,
    Reason,
    Refused,
    Work,
)
from headway.scheduler.fixed import FixedPolicy
from headway.scheduler.policy import Policy
from headway.scheduler.scheduler import Scheduler, make_policy
from headway.scheduler.times import ServiceTimes

__all__ = [
    "Accepted",
    "AdaptivePolicy",
    "Admission",
    "Arrival",
    "Chunk",
    "Completion",
    "FixedPolicy",
    "Load",
    "Outcome",
    "Policy",
    "Reason",
    "Refused",
    "Scheduler",
    "ServiceTimes",
    "Work",
    "make_policy",
]
