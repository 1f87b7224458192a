"""What rows say of a model: how much each unit matters to the loss, and what layers are fed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name all of torch uses

from headway.compress.passes.units import Units
from headway.data import Dataset
from headway.models import batch_features

_BATCH = 256
_MOST_VECTORS = 2048
"""Of a batch, that an input's moments are taken from: a history gives many."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What was seen.

    Attributes:
        taylor: by id of a unit, mean squared first-order change of a batch's loss if it went.
        moments: by parameter of a linear layer's weight, the second moments ``[in + 1, in + 1]``
            of what it is fed, with a one added.
        reach: likewise, the root mean square gradient of a row's loss at each output ``[out]``.
    """

    taylor: NDArray[np.float64]
    moments: Mapping[str, NDArray[np.float64]]
    reach: Mapping[str, NDArray[np.float64]]


def observe(model: nn.Module, rows: Dataset, units: Units) -> Observed:
    """Return what the rows say of the units.

    The first-order term is that of Molchanov et al., "Importance Estimation for Neural Network
    Pruning" (CVPR 2019), equation 8, taken where a unit is read: a unit's activation times the
    gradient it gets, summed over the rows of a batch, squared, averaged over batches.

    Args:
        model: put into evaluation mode; its weights stay.
        rows: with labels.
        units: of this model.
    """
    readers = linear_weights(model)
    total = np.zeros(units.count)
    model.eval()
    batches = 0
    with _watching(model, readers) as moments, _learning(model, units):
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            raw = model(batch_features(rows, part))
            loss = F.binary_cross_entropy_with_logits(raw, torch.from_numpy(rows.labels[part]))
            loss.backward()  # type: ignore[no-untyped-call]
            total += np.square(_first_order(model, units))
            model.zero_grad(set_to_none=True)
            batches += 1
    seen = {name: moment for name, moment in moments.items() if moment.count}
    return Observed(
        total / max(1, batches),
        {name: moment.total.numpy() / moment.count for name, moment in seen.items()},
        {name: moment.root_gradient() for name, moment in seen.items()},
    )


def magnitudes(model: nn.Module, units: Units) -> NDArray[np.float64]:
    """Return each unit's group-L1: the absolute sum of all its weights outside tables.

    As a share of the mean of its site, since layers differ in scale. After Wen et al., "Learning
    Structured Sparsity in Deep Neural Networks" (2016), which drives such groups to zero.
    """
    named = dict(model.named_parameters())
    total = np.zeros(units.count)
    for site in units.sites:
        score = np.zeros(len(site))
        for (name, axis), positions in site.places.items():
            if name in named and name not in units.tables:
                sums = _along(named[name].detach().abs(), axis)
                score += sums[positions].sum(axis=1)
        total[site.ids] = score / max(score.mean(), 1e-30)
    return total


def _first_order(model: nn.Module, units: Units) -> NDArray[np.float64]:
    named = dict(model.named_parameters())
    total = np.zeros(units.count)
    sums: dict[tuple[str, int], NDArray[np.float64]] = {}
    for site in units.sites:
        for place, positions in site.places.items():
            name, axis = place
            parameter = named.get(name)
            if not axis or parameter is None or parameter.grad is None or name in units.tables:
                continue
            if place not in sums:
                sums[place] = _along((parameter * parameter.grad).detach(), axis)
            total[site.ids] += sums[place][positions].sum(axis=1)
    return total


def _along(tensor: Tensor, axis: int) -> NDArray[np.float64]:
    others = [d for d in range(tensor.dim()) if d != axis]
    summed = tensor.double().sum(dim=others) if others else tensor.double()
    found: NDArray[np.float64] = summed.numpy()
    return found


def linear_weights(model: nn.Module) -> list[str]:
    """Return the names of the weights of all linear layers."""
    modules = model.named_modules()
    return [f"{name}.weight" for name, module in modules if isinstance(module, nn.Linear)]


@contextmanager
def _learning(model: nn.Module, units: Units) -> Iterator[None]:
    """Ask for gradients of all parameters but tables, and put things back afterwards."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)  # training leaves its last gradients behind
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in units.tables)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


class _Moments:
    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.count = 0
        self._gradient = torch.zeros(())
        self._rows = 0

    def add(self, vectors: Tensor) -> None:
        """Add the second moments of ``[n, in]``."""
        step = -(-len(vectors) // _MOST_VECTORS)
        some = vectors.detach()[::step].double()
        some = torch.cat([some, some.new_ones(len(some), 1)], dim=1)
        self.total = self.total + some.T @ some
        self.count += len(some)

    def add_gradient(self, gradient: Tensor, rows: int) -> None:
        """Add the gradient ``[..., out]`` of the mean loss of so many rows."""
        flat = gradient.detach().reshape(-1, gradient.shape[-1]).double() * rows
        self._gradient = self._gradient + flat.square().sum(0)
        self._rows += rows

    def root_gradient(self) -> NDArray[np.float64]:
        """Return the root of the mean square, over rows, of what positions add up to."""
        found: NDArray[np.float64] = (self._gradient / max(1, self._rows)).sqrt().numpy()
        return found


@contextmanager
def _watching(model: nn.Module, readers: Collection[str]) -> Iterator[dict[str, _Moments]]:
    """Yield the moments of what linear layers are fed, by the names of their weights."""
    found = {name: _Moments() for name in readers}
    with ExitStack() as stack:
        for name, moments in found.items():
            module = model.get_submodule(name.rpartition(".")[0])
            stack.callback(module.register_forward_hook(_adder(moments)).remove)
        yield found


def _adder(moments: _Moments) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        moments.add(given[0].reshape(-1, given[0].shape[-1]))
        adder: Callable[[Tensor], None] = lambda g: moments.add_gradient(g, len(g))  # noqa: E731
        output.register_hook(adder)  # type: ignore[no-untyped-call]

    return hook
