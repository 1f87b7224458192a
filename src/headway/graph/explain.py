"""What was hoisted, what it saved and why the rest was not: data for reports and drawings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx

from headway.graph.builder import ORIGIN
from headway.graph.capture import Captured
from headway.graph.cost import multiply_adds, shape_of
from headway.graph.layout import Tower
from headway.graph.nodes import where
from headway.graph.partition import Partition


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One operation or input and what it costs per query.

    Attributes:
        name: unique within its graph.
        op: the operation, as in ``aten.linear``; ``input`` or ``constant`` for what comes in.
        scope: ``query``, ``candidate``, ``mixed`` (a part of each) or ``constant``.
        shape: of the result; ``rows`` stands for the number of rows. Empty for what is no tensor.
        inputs: names of the nodes it reads.
        origin: in a tower, the name of the captured node that it was made for; else empty.
        place: file, line and module of the user's code, as a phrase; may be empty.
        before: multiply-adds per query in the captured graph; 0 in a tower.
        after: multiply-adds per query in the towers.
        rewrite: the ``Rewrite`` that moved work away from here; may be empty.
        stopped: why the work stays with the candidates; may be empty.
    """

    name: str
    op: str
    scope: str
    shape: tuple[int | str, ...]
    inputs: tuple[str, ...]
    origin: str
    place: str
    before: int
    after: int
    rewrite: str
    stopped: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A model before and after partition, made of plain values that encode as JSON.

    Attributes:
        rows: candidates of the query that costs are given for.
        per_query: whether the candidate tower scores one query at a time.
        rewrites: names of the rewrites that were allowed.
        nodes: the captured graph, in order.
        query: the query tower's graph, in order; empty if there is none.
        candidate: the candidate tower's graph, in order.
        before: multiply-adds per query of the captured graph.
        after: multiply-adds per query of both towers.
        notes: what was hoisted, what stopped and what the model ignores, as sentences.
    """

    rows: int
    per_query: bool
    rewrites: tuple[str, ...]
    nodes: tuple[NodeCost, ...]
    query: tuple[NodeCost, ...]
    candidate: tuple[NodeCost, ...]
    before: int
    after: int
    notes: tuple[str, ...]


def explain(captured: Captured, partition: Partition, rows: int = 256) -> Explanation:
    """Return every operation with its scope and cost, before and after.

    Args:
        captured: what ``partition`` was made of.
        partition: its tables and towers.
        rows: candidates in the query.
    """
    query = _tower(partition.query, "query", 1)
    candidate = _tower(partition.candidate, "candidate", rows)
    spent: Counter[str] = Counter()
    for cost in (*query, *candidate):
        spent[cost.origin] += cost.after
    nodes = tuple(
        _captured(node, captured, partition, (rows, spent[node.name]))
        for node in captured.module.graph.nodes
        if node.op != "output"
    )
    return Explanation(
        rows=rows,
        per_query=partition.candidate.per_query,
        rewrites=tuple(sorted(partition.rewrites)),
        nodes=nodes,
        query=query,
        candidate=candidate,
        before=sum(n.before for n in nodes),
        after=sum(n.after for n in (*query, *candidate)),
        notes=partition.notes,
    )


def _captured(
    node: fx.Node, captured: Captured, partition: Partition, counts: tuple[int, int]
) -> NodeCost:
    rows, after = counts
    decision = partition.decisions.get(node.name)
    inputs = tuple(n.name for n in node.all_input_nodes)
    name = captured.names.get(str(node.target), "") if node.op == "get_attr" else ""
    part = captured.inputs.get(node.name)
    return NodeCost(
        name=node.name,
        op=_op(node),
        scope=decision.scope if decision else "constant",
        shape=shape_of(node.meta.get("val")),
        inputs=inputs,
        origin="",
        place=f" {part.kind.value} of {part.feature.name}" if part else name or where(node),
        before=multiply_adds(node, rows),
        after=after,
        rewrite=decision.rewrite if decision else "",
        stopped=decision.stopped if decision else "",
    )


def _tower(tower: Tower | None, scope: str, rows: int) -> tuple[NodeCost, ...]:
    if tower is None:
        return ()
    names = dict(zip(tower.module.graph.find_nodes(op="placeholder"), tower.inputs, strict=True))
    return tuple(
        NodeCost(
            name=names.get(node, node.name),
            op=_op(node),
            scope="constant" if node.op == "get_attr" else scope,
            shape=shape_of(node.meta.get("val")),
            inputs=tuple(names.get(n, n.name) for n in node.all_input_nodes),
            origin=node.meta.get(ORIGIN, ""),
            place=where(node),
            before=0,
            after=multiply_adds(node, rows),
            rewrite="",
            stopped="",
        )
        for node in tower.module.graph.nodes
        if node.op != "output"
    )


def _op(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "constant"
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(packet) if packet is not node.target else getattr(packet, "__name__", str(packet))
