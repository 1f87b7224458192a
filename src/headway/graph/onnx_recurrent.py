"""A GRU as ONNX has it."""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor, fx

from headway.graph.nodes import value_of
from headway.graph.onnx_writer import NotWrittenError, Writer, array_of
from headway.graph.recurrent import GATES


def write_gru(writer: Writer, node: fx.Node) -> str:
    """Write one layer over all positions.

    ONNX Runtime 1.31 ends the process on a GRU without rows, so a row of zeros goes along.
    """
    source, layers = cast("tuple[fx.Node, list[fx.Node]]", node.args)
    weights = [value_of(writer.module, w) for w in layers]
    if any(w is None for w in weights):
        raise NotWrittenError("a GRU whose weights are computed")
    given = [_reordered(cast("Tensor", w)) for w in weights]
    hidden = given[1].shape[1]
    biases = np.concatenate(given[2:]) if given[2:] else np.zeros(2 * GATES * hidden, np.float32)
    _, length, width = source.meta["val"].shape
    extra = writer.constant(np.zeros((1, length, width), np.float32))
    padded = writer.call("Concat", writer.name(source), extra, axis=0)
    states = writer.call(
        "GRU",
        writer.call("Transpose", padded, perm=[1, 0, 2]),
        *(writer.constant(w[None]) for w in (given[0], given[1], biases)),
        hidden_size=hidden,
        linear_before_reset=1,
    )
    turned = writer.call("Transpose", states, perm=[2, 0, 1, 3])
    flat = writer.call("Squeeze", turned, writer.integers(2))
    ends = [writer.integers(n) for n in (0, -1, 0, 1)]
    return writer.call("Slice", flat, *ends)


def _reordered(weight: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the gates in the order of ONNX: update, reset, new."""
    reset, update, new = array_of(weight).reshape(GATES, -1, *weight.shape[1:])
    return np.concatenate([update, reset, new])
