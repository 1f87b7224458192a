"""Linear layers of low rank: two thin products for one."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.passes.observe import Observed

_DAMPING = 1e-4
_WORTH = 0.8
"""Two thin products must cost at most this share of the whole one to be taken."""


def low_rank(
    model: nn.Module, seen: Observed, energy: float, *, multiple: int = 16
) -> tuple[nn.Module, dict[str, tuple[int, int]]]:
    """Return a model whose linear layers are cut to the rank that their inputs make use of.

    The two factors of ``W`` give its outputs back with the least squared error on what the layer
    is fed: the singular value decomposition of ``W L`` for second moments ``L L'``, each output
    weighted by how far it reaches into the loss. A layer is left alone where two products would
    not be clearly cheaper than one.

    Args:
        model: left as it was.
        seen: by ``observe``, of this model.
        energy: share of each layer's squared outputs that is kept.
        multiple: ranks are multiples of it.

    Returns:
        The model, and for each layer replaced its full rank and the one it has now.
    """
    thin = copy.deepcopy(model)
    ranks: dict[str, tuple[int, int]] = {}
    for name, module in list(thin.named_modules()):
        weight = f"{name}.weight"
        if not isinstance(module, nn.Linear) or weight not in seen.moments:
            continue
        down, up = _factors(module, seen, weight, energy, multiple)
        inputs, outputs, rank = module.in_features, module.out_features, len(down)
        if rank * (inputs + outputs) <= _WORTH * inputs * outputs:
            ranks[name] = (min(inputs, outputs), rank)
            put_module(thin, name, thin_pair(down, up, module.bias))
    return thin, ranks


def thin_pair(
    down: NDArray[np.float64], up: NDArray[np.float64], bias: torch.Tensor | None
) -> nn.Sequential:
    """Return two linear layers: ``down`` ``[rank, in]``, then ``up`` ``[out, rank]`` and a bias."""
    rank, inputs = down.shape
    first = nn.Linear(inputs, rank, bias=False)
    second = nn.Linear(rank, len(up), bias=bias is not None)
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(down))
        second.weight.copy_(torch.from_numpy(up))
        if bias is not None:
            second.bias.copy_(bias)
    return nn.Sequential(first, second)


def _factors(
    module: nn.Linear, seen: Observed, name: str, energy: float, multiple: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    moments = seen.moments[name][:-1, :-1]
    width = len(moments)
    root = np.linalg.cholesky(moments + np.eye(width) * _DAMPING * np.trace(moments) / width)
    reach = np.maximum(seen.reach[name], 1e-3 * seen.reach[name].max() + 1e-12)[:, None]
    weight = module.weight.detach().double().numpy()
    left, values, right = np.linalg.svd(reach * weight @ root, full_matrices=False)
    kept = np.cumsum(np.square(values)) / np.square(values).sum()
    rank = int(np.searchsorted(kept, energy)) + 1
    rank = min(len(values), -(-rank // multiple) * multiple)
    halves = np.sqrt(np.maximum(values[:rank], 1e-12))
    down = np.linalg.solve(root.T, (halves[:, None] * right[:rank]).T).T
    return down, left[:, :rank] * halves / reach


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, by its name."""
    parent, _, own = name.rpartition(".")
    holder = model.get_submodule(parent) if parent else model
    setattr(holder, own, module)
