"""A captured graph becomes lookups, a query tower and a candidate tower."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from headway.core import Schema
from headway.graph.capture import Captured
from headway.graph.cost import work
from headway.graph.forms import Decision
from headway.graph.interpret import Interpreter, Result
from headway.graph.layout import Tower
from headway.graph.merge import merge_linear
from headway.graph.rewrites import ALL, Rewrite

PER_QUERY_ROWS = 64
"""Candidates for which the two ways to share history are compared: fewer pay for no matrix."""
PER_QUERY_GAIN = 0.85
"""A tower that takes one query at a time cannot batch small ones, so it must do this much less."""


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A model in three pieces that together give what it gives.

    Attributes:
        query: runs on one row per query; None if nothing depends on the query alone.
        candidate: runs on one row per candidate.
        tables: the model's parameter of each schema table that is looked up.
        schema: of the model.
        notes: what was hoisted, what stopped and what the model ignores, as sentences.
        decisions: what became of each captured node, by its name.
        rewrites: those that were allowed.
        places: for tables whose ids share rows of the parameter, the row of each id.
    """

    query: Tower | None
    candidate: Tower
    tables: dict[str, Tensor]
    schema: Schema
    notes: tuple[str, ...]
    decisions: dict[str, Decision] = field(default_factory=dict)
    rewrites: frozenset[Rewrite] = ALL
    places: dict[str, Tensor] = field(default_factory=dict)


def partition(captured: Captured, rewrites: frozenset[Rewrite] = ALL) -> Partition:
    """Share the graph out: what depends on the query alone runs once per query.

    The graph is interpreted over a few forms (``forms``): a value may be a concatenation or a
    sum of parts that belong to the query, to the candidates, or are products of both. What no
    rule covers is carried out per candidate, with the query's share gathered by
    ``row_to_query``. If a model attends to a history, the candidate tower may take one query
    at a time, so that nothing of the history need be gathered; that is chosen by its work.

    Args:
        captured: the model.
        rewrites: those that may be applied.

    Raises:
        CaptureError: if ids are used other than for a lookup, a parameter does not fit its
            table, no score depends on a candidate, or a table is never looked up.
    """
    if Rewrite.MERGE_LINEAR in rewrites:
        captured = replace(captured, module=merge_linear(captured.module))
    result = Interpreter(captured, rewrites, per_query=False).run()
    if Rewrite.ATTENTION in rewrites and _hands_over_history(result):
        other = Interpreter(captured, rewrites, per_query=True).run()
        if _work(other) < PER_QUERY_GAIN * _work(result):
            result = other
    return Partition(
        result.query,
        result.candidate,
        result.tables,
        captured.schema,
        result.notes,
        result.decisions,
        rewrites,
        result.places,
    )


def _hands_over_history(result: Result) -> bool:
    """Tell whether the candidates get more than one vector of a query."""
    nodes = result.candidate.module.graph.find_nodes(op="placeholder")
    places = zip(result.candidate.inputs, nodes, strict=True)
    return any(n.startswith("hidden.") and node.meta["val"].dim() > 2 for n, node in places)


def _work(result: Result) -> int:
    """Return the work for a query of some candidates."""
    nodes = [(node, PER_QUERY_ROWS) for node in result.candidate.module.graph.nodes]
    if result.query is not None:
        nodes += [(node, 1) for node in result.query.module.graph.nodes]
    return sum(work(node, rows) for node, rows in nodes)
