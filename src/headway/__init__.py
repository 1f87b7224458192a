"""Headway makes ranking models small and fast without measurable loss, and serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.engine import Ranker, load

__version__ = "0.1.0"
__all__ = ["Ranker", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: reading the version must not load the engines.
    if name in {"Ranker", "load"}:
        from headway import engine  # noqa: PLC0415

        return getattr(engine, name)
    raise AttributeError(f"module 'headway' has no attribute {name!r}")
