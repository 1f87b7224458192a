"""Lets the weights that stay make up for the inputs that go."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headway.compress.passes.cut import Kept

_DAMPING = 1e-3
"""Added to the moments, as a share of their mean: few rows do not tell them exactly."""


def compensated(
    model: nn.Module, left: Kept, moments: Mapping[str, NDArray[np.float64]]
) -> dict[str, Tensor]:
    """Return new weights and biases for linear layers that lose inputs, at their full width.

    The columns that stay, and the bias, become those that give the layer's old outputs back
    with the least squared error on the rows observed: ``W' = W G_k (G_kk)^-1`` for second
    moments ``G``, as in He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural
    Networks" (ICCV 2017), section 3.2. Columns that go are zero.

    Args:
        model: before anything is taken out; left as it was.
        left: for each axis that loses positions, those it keeps.
        moments: as ``observe`` returns them.

    Returns:
        By name of the parameter.
    """
    named = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for (name, axis), kept in left.items():
        if axis != 1 or name not in moments:
            continue
        weight = named[name].detach().double().numpy()
        bias_name = name.removesuffix("weight") + "bias"
        bias = named.get(bias_name)
        whole = np.zeros((len(weight), weight.shape[1] + 1))
        whole[:, :-1] = weight
        if bias is not None:
            whole[:, -1] = bias.detach().double().numpy()
        stays = np.append(kept, weight.shape[1]) if bias is not None else kept
        new = _refitted(whole, moments[name], stays)
        found[name] = torch.from_numpy(new[:, :-1]).to(named[name].dtype)
        if bias is not None:
            found[bias_name] = torch.from_numpy(new[:, -1].copy()).to(bias.dtype)
    return found


def _refitted(
    whole: NDArray[np.float64], moments: NDArray[np.float64], stays: NDArray[np.int64]
) -> NDArray[np.float64]:
    inner = moments[np.ix_(stays, stays)]
    # Pulled towards the old weights, not towards zero: what rows do not tell stays as it was.
    damping = _DAMPING * float(np.trace(inner)) / len(inner)
    goal = whole @ moments[:, stays] + damping * whole[:, stays]
    solved = np.linalg.solve(inner + damping * np.eye(len(inner)), goal.T).T
    new = np.zeros_like(whole)
    new[:, stays] = solved
    return new
