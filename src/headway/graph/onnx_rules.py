"""A tower whose every operation has a rule is written as ONNX in one pass."""

from __future__ import annotations

import onnx
from onnx import helper
from torch import fx

from headway.graph.layout import Tower
from headway.graph.onnx_arguments import fixed, shape_of
from headway.graph.onnx_moves import MOVES
from headway.graph.onnx_recurrent import write_gru
from headway.graph.onnx_values import VALUES
from headway.graph.onnx_writer import KINDS, NotWrittenError, Writer, kind_of
from headway.graph.recurrent import GRU

RULES = {**VALUES, **MOVES, GRU: write_gru}
"""Operation to the rule that writes it."""


def write_onnx(tower: Tower, scope: str) -> onnx.ModelProto | None:
    """Return a tower as ONNX; None if it holds what no rule writes.

    The exporter of torch traces a graph several times over, which takes seconds for each hundred
    operations; here every operation is seen once.

    Args:
        tower: with shapes in its graph.
        scope: ``query`` or ``candidate``.
    """
    graph = tower.module.graph
    writer = Writer(tower.module)
    try:
        places = graph.find_nodes(op="placeholder")
        inputs = [_input(tower, scope, *pair) for pair in zip(tower.inputs, places, strict=True)]
        writer.names |= dict(zip(places, tower.inputs, strict=True))
        for node in graph.nodes:
            if node.op == "call_function":
                rule = RULES.get(node.target)
                if rule is None:
                    return None
                writer.names[node] = rule(writer, node)
        return writer.close(tower, inputs)
    except NotWrittenError:
        return None


def _input(tower: Tower, scope: str, name: str, node: fx.Node) -> onnx.ValueInfoProto:
    sizes = fixed(shape_of(node)[1:])
    hidden = scope == "candidate" and name.startswith("hidden.")
    first: int | str = "queries" if hidden else "rows"
    shape = [1 if hidden and tower.per_query else first, *sizes]
    return helper.make_tensor_value_info(name, KINDS[kind_of(node)], shape)
