"""Headway makes ranking models small and fast without measurable loss, and serves them."""

__version__ = "0.1.0"
