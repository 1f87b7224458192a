"""A model without torch, together with the account of what was hoisted that its bundle keeps."""

from __future__ import annotations

import re

import msgspec
import torch

from headway.core import Schema
from headway.graph import ALL, Lowered, Rewrite, capture, explain, lower, partition

GRAPH_PROFILE = "graph"
"""Stem under ``profiles/`` of a bundle; JSON of ``graph.Explanation``."""
_FOLDERS = re.compile(rb' at /(?:[^\s:"/]+/)*')


def lower_explained(
    model: torch.nn.Module, schema: Schema, *, rewrites: frozenset[Rewrite] = ALL
) -> tuple[Lowered, dict[str, bytes]]:
    """Return the model's towers and tables, and profiles for the bundle that explain them.

    Args:
        model: as ``graph.capture`` takes it.
        schema: of the model.
        rewrites: those that may move work to the query; none of them for what hoisting gives.

    Raises:
        CaptureError: if the model cannot be captured, partitioned or lowered.
    """
    captured = capture(model, schema)
    parts = partition(captured, rewrites)
    # A bundle travels: it says which line of which file, not where that lay.
    explanation = _FOLDERS.sub(rb" at ", msgspec.json.encode(explain(captured, parts)))
    return lower(parts), {GRAPH_PROFILE: explanation}
