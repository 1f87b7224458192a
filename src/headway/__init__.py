"""Headway makes ranking models small and fast without measurable loss, and serves them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.compress import CompileReport, Report, optimize
    from headway.compress import compile_model as compile
    from headway.engine import Ranker, Ranking, load

__version__ = "0.1.0"
__all__ = [
    "CompileReport",
    "Ranker",
    "Ranking",
    "Report",
    "__version__",
    "compile",
    "load",
    "optimize",
]
_HOMES = {
    "CompileReport": ("headway.compress", "CompileReport"),
    "compile": ("headway.compress", "compile_model"),
    "Report": ("headway.compress", "Report"),
    "optimize": ("headway.cli.library", "optimize"),
    "Ranker": ("headway.engine", "Ranker"),
    "Ranking": ("headway.engine", "Ranking"),
    "load": ("headway.engine", "load"),
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: reading the version must not load the engines, nor serving torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'headway' has no attribute {name!r}")
    room, own = _HOMES[name]
    return getattr(import_module(room), own)
