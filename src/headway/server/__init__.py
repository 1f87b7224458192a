"""HTTP in, scores out: the wire, worker threads around the scheduler, metrics, drain."""

from headway.server.run import BackgroundServer, run_server
from headway.server.settings import QueryEncoder, ServedModel, ServerSettings, load_served

__all__ = [
    "BackgroundServer",
    "QueryEncoder",
    "ServedModel",
    "ServerSettings",
    "load_served",
    "run_server",
]
