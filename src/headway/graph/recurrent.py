"""A GRU is captured as one operation: unrolled, its steps would be most of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

GATES = 3


@torch.library.custom_op("headway::gru", mutates_args=())
def gru(inputs: Tensor, weights: list[Tensor]) -> Tensor:
    """Return the states of one GRU layer that starts from zeros, ``[rows, length, hidden]``.

    Args:
        inputs: ``[rows, length, width]``.
        weights: ``[3 hidden, width]`` over the inputs and ``[3 hidden, hidden]`` over the state
            in the order reset, update, new, and a bias for each if there is one.
    """
    start = inputs.new_zeros((1, inputs.shape[0], weights[1].shape[1]))
    states, _ = _run(inputs, start, weights)
    # An operation may not return what it was given, and lays out its result as told.
    return states.contiguous()


@gru.register_fake
def _(inputs: Tensor, weights: list[Tensor]) -> Tensor:
    return inputs.new_empty((inputs.shape[0], inputs.shape[1], weights[1].shape[1]))


GRU: Any = torch.ops.headway.gru.default


@contextmanager
def whole_recurrences(model: nn.Module) -> Iterator[None]:
    """Let the model's plain GRUs call ``gru`` while the context lasts.

    Those that run backwards, have projections, or are handed a state stay what they are.
    """
    plain = [m for m in model.modules() if type(m) is nn.GRU and not m.bidirectional]
    for module in plain:
        # Found before the method of the class, in this model alone.
        vars(module)["forward"] = partial(_forward, module)
    try:
        yield
    finally:
        for module in plain:
            del vars(module)["forward"]


def unrolled(module: fx.GraphModule) -> None:
    """Replace every ``gru`` by the layer of torch, which the exporter of torch knows."""
    for node in module.graph.find_nodes(op="call_function", target=GRU):
        node.target = _as_torch_has_it
    module.recompile()


def _forward(module: nn.GRU, given: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if state is not None or given.dim() != 3:
        return nn.GRU.forward(module, given, state)
    states = given if module.batch_first else given.transpose(0, 1)
    last = []
    for weights in module.all_weights:
        states = gru(states, list(weights))
        last.append(states[:, -1])
    return states if module.batch_first else states.transpose(0, 1), torch.stack(last)


def _as_torch_has_it(inputs: Tensor, weights: list[Tensor]) -> Tensor:
    """Run the layer on one row more: ONNX Runtime 1.31 ends the process on a GRU without rows."""
    extra = inputs.new_zeros((1, inputs.shape[1], inputs.shape[2]))
    padded = torch.cat([inputs, extra])
    start = padded.new_zeros((1, padded.shape[0], weights[1].shape[1]))
    return _run(padded, start, weights)[0][:-1]


def _run(inputs: Tensor, start: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    with_bias = len(weights) > 2
    return torch.gru(inputs, start, weights, with_bias, 1, 0.0, False, False, True)  # noqa: FBT003
