"""Lookups side by side in one input, in the order in which the graph joins them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from headway.bundle import Lookup
from headway.graph.builder import TowerBuilder, drop_unused
from headway.graph.nodes import aten, emit

EMBEDDED = "embedded"
LOOKUP = "lookup."


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """A dense graph whose inputs and outputs follow ``bundle.TowerEntry``.

    Attributes:
        module: takes one tensor per name of ``inputs``, in order; gives a tuple, one tensor
            per name of ``outputs``.
        inputs: names as in ``TowerEntry``.
        outputs: names as in ``TowerEntry``.
        lookups: what the columns of the input ``embedded`` hold, in order.
        embedded_width: columns of ``embedded``.
        per_query: whether one run takes candidates of one query only.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    embedded_width: int
    per_query: bool = False


def finish(
    tower: TowerBuilder,
    outputs: tuple[str, ...],
    tables: dict[str, str],
    *,
    per_query: bool = False,
) -> Tower:
    """Pack the lookups of a closed tower into one input.

    Args:
        tower: consumed; its graph is the result's.
        outputs: names of its outputs, in order.
        tables: table of each feature that is looked up.
        per_query: whether it takes candidates of one query only.
    """
    graph = tower.graph
    names = {node: name for name, node in tower.inputs.items()}
    lookups = _pack(graph, names, tables)
    drop_unused(graph)
    graph.lint()
    module = fx.GraphModule(tower.root, graph)
    inputs = tuple(names[node] for node in graph.find_nodes(op="placeholder"))
    width = sum(lookup.width for lookup in lookups)
    return Tower(module, inputs, outputs, lookups, width, per_query)


def _pack(graph: fx.Graph, names: dict[fx.Node, str], tables: dict[str, str]) -> tuple[Lookup, ...]:
    slots = [n for n in names if names[n].startswith(LOOKUP) and n.users]
    if not slots:
        return ()
    order = _order(graph, slots)
    widths = {slot: int(slot.meta["val"].shape[1]) for slot in order}
    starts: dict[fx.Node, int] = {}
    for slot in order:
        starts[slot] = sum(widths[s] for s in starts)
    with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
        packed = graph.placeholder("packed")
    names[packed] = EMBEDDED
    like = order[0].meta["val"]
    with like.fake_mode:
        packed.meta["val"] = like.new_empty((like.shape[0], sum(widths.values())))
    _replace(graph, packed, starts, widths)
    return tuple(
        Lookup(
            feature=(feature := names[slot].removeprefix(LOOKUP)),
            table=tables[feature],
            start=starts[slot],
            width=widths[slot],
        )
        for slot in order
    )


def _runs(join: fx.Node, slots: list[fx.Node]) -> list[list[fx.Node]]:
    """Return the stretches of a concatenation that are all lookups."""
    runs: list[list[fx.Node]] = [[]]
    for part in cast("list[fx.Node]", join.args[0]):
        if part in slots:
            runs[-1].append(part)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _order(graph: fx.Graph, slots: list[fx.Node]) -> list[fx.Node]:
    """Return the slots so that the longest stretches need no copy; first come, first kept."""
    joins = graph.find_nodes(op="call_function", target=aten.cat.default)
    runs = [run for join in joins for run in _runs(join, slots)]
    order: list[fx.Node] = []
    for run in sorted(runs, key=len, reverse=True):
        order += [slot for slot in dict.fromkeys(run) if slot not in order]
    return order + [slot for slot in slots if slot not in order]


def _replace(
    graph: fx.Graph, packed: fx.Node, starts: dict[fx.Node, int], widths: dict[fx.Node, int]
) -> None:
    """Read every lookup from the packed input, neighbours in one piece."""
    total = int(packed.meta["val"].shape[1])
    pieces: dict[tuple[int, int], fx.Node] = {(0, total): packed}

    def piece(start: int, stop: int) -> fx.Node:
        if (start, stop) not in pieces:
            with graph.inserting_after(packed):
                pieces[start, stop] = emit(graph, aten.slice.Tensor, packed, 1, start, stop)
        return pieces[start, stop]

    for join in graph.find_nodes(op="call_function", target=aten.cat.default):
        nodes = [
            piece(starts[run[0]], starts[run[-1]] + widths[run[-1]]) if run[0] in starts else run[0]
            for run in _neighbours(cast("list[fx.Node]", join.args[0]), starts, widths)
        ]
        if len(nodes) == 1:
            join.replace_all_uses_with(nodes[0])
            graph.erase_node(join)
        else:
            join.args = (nodes, join.args[1])
    for slot, start in starts.items():
        if slot.users:
            slot.replace_all_uses_with(piece(start, start + widths[slot]))


def _neighbours(
    parts: list[fx.Node], starts: dict[fx.Node, int], widths: dict[fx.Node, int]
) -> list[list[fx.Node]]:
    """Group the parts that lie side by side in the packed input; others stand alone."""
    groups: list[list[fx.Node]] = []
    for part in parts:
        last = groups[-1][-1] if groups else None
        joins = last in starts and part in starts and starts[last] + widths[last] == starts[part]
        if joins:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
