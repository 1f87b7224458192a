"""The decisions: splitting, batching, admission. Pure functions of state and time."""

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
from headway.scheduler.scheduler import Scheduler

__all__ = [
    "Accepted",
    "Admission",
    "Arrival",
    "Chunk",
    "Completion",
    "Load",
    "Outcome",
    "Reason",
    "Refused",
    "Scheduler",
    "Work",
]
