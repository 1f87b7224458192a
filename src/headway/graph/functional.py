"""Operations that export already leaves as the compiler wants them."""

from __future__ import annotations

import operator

from torch import fx

from headway.graph.nodes import aten
from headway.graph.recurrent import GRU

_PLAIN = {
    GRU,
    operator.getitem,
    aten.sym_size.int,
    aten.embedding.default,
    aten.embedding_bag.padding_idx,
    aten.linear.default,
    aten.bmm.default,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.relu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.exp.default,
    aten.prelu.default,
    aten.softmax.int,
    aten.sum.dim_IntList,
    aten.mean.dim,
    aten.zeros_like.default,
    aten.cat.default,
    aten.stack.default,
    aten.chunk.default,
    aten.split.Tensor,
    aten.select.int,
    aten.slice.Tensor,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
}


def plain(graph: fx.Graph) -> bool:
    """Tell whether a graph needs no decomposition, which traces all of it once more.

    None of these operations changes what it is given, and each stays what it is or is one that
    the clean-up of the captured graph knows.
    """
    return all(n.target in _PLAIN for n in graph.nodes if n.op == "call_function")
