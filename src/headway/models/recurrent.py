"""A GRU whose update gate is scaled by attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Augru(nn.Module):
    """Zhou et al., "Deep Interest Evolution Network", 2019, equations 2 to 5, 13 and 14 (AUGRU).

    What the gates take from the inputs is computed for all positions before the first step: it
    knows nothing of the attention, so for a history of the query it is the query's work. A
    position of weight 0 leaves the state as it was.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, 3 * hidden)
        self.gates = nn.Linear(hidden, 2 * hidden, bias=False)
        self.state = nn.Linear(hidden, hidden, bias=False)

    def forward(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Return the state ``[rows, hidden]`` after the last position.

        Args:
            inputs: float32 ``[rows, length, width]``.
            weights: float32 ``[rows, length]``, attention in 0 .. 1.
        """
        given = self.inputs(inputs)
        split = self.gates.out_features
        for_gates, for_state = given[..., :split], given[..., split:]
        state = torch.zeros_like(for_state[:, 0])
        for step in range(inputs.shape[1]):
            gates = torch.sigmoid(for_gates[:, step] + self.gates(state))
            update, reset = gates.chunk(2, dim=1)
            new = torch.tanh(for_state[:, step] + reset * self.state(state))
            state = state + weights[:, step : step + 1] * update * (new - state)
        return state
