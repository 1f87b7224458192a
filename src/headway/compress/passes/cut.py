"""Takes units out of a model: what comes out is an ordinary, smaller module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headway.compress.passes.units import Place, Site, Units, canonical_names
from headway.core import CaptureError, Schema
from headway.models import RankingModel, draw_features

Module = TypeVar("Module", bound=nn.Module)
Kept = Mapping[Place, NDArray[np.int64]]
"""For each axis of a parameter that lost positions, those it kept, ascending."""
_ROWS = 64
_CLOSE = 1e-4


def cut(
    model: Module, schema: Schema, units: Units, kept: NDArray[np.bool_]
) -> tuple[Module, Schema, Kept]:
    """Return a smaller copy of a model, its schema, and what is left of each axis.

    Parameters that lose nothing are copied too, so that training the one leaves the other.

    Args:
        model: where the units are; left as it was.
        schema: of the model; tables that lose columns have another dim in the one returned.
        units: of this very model.
        kept: by id, which units stay.

    Raises:
        CaptureError: if the smaller module does not compute what the model computes without
            those units: its code depends on the widths it was written with.
    """
    smaller, small_schema, left = take_out(model, schema, units, kept)
    error = difference(model, schema, smaller, units, kept)
    if not error <= _CLOSE:
        raise CaptureError(
            f"without the units removed the model's code computes something else (by {error:.2g} "
            "of the spread); let its forward take widths from its parameters, not from numbers"
        )
    return smaller, small_schema, left


def take_out(
    model: Module,
    schema: Schema,
    units: Units,
    kept: NDArray[np.bool_],
    *,
    shared: bool = False,
) -> tuple[Module, Schema, Kept]:
    """Return as ``cut``, unchecked.

    With ``shared`` the copy holds the very tensors that lose nothing, which is enough to try it.
    """
    left = positions_left(model, units, kept)
    smaller = _copied(model, left) if shared else copy.deepcopy(model)
    replace_parameters(smaller, taken_from(state_of(smaller), left))
    small_schema = with_dims(schema, smaller, units, left)
    return smaller, small_schema, left


def replace_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model other parameters and buffers, and its modules the widths that follow.

    Args:
        model: changed in place.
        tensors: by name; those of the same name that are tied stay tied.
    """
    names = canonical_names(model)
    made: dict[str, Tensor] = {}
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        own = [*module.named_parameters(recurse=False, remove_duplicate=False)]
        for name, old in own:
            key = names[prefix + name]
            if key not in made:
                new = tensors[key].detach()
                made[key] = nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(module, name, made[key])
        for name, _ in module.named_buffers(recurse=False, remove_duplicate=False):
            setattr(module, name, tensors[names[prefix + name]])
        _resize(module)


def with_dims(schema: Schema, model: nn.Module, units: Units, left: Kept) -> Schema:
    """Return the schema with the dims of tables whose parameters lost columns.

    The model's own schema, where it is one of Headway's, is replaced too.
    """
    dims = {
        units.tables[name]: len(kept)
        for (name, axis), kept in left.items()
        if axis == 1 and name in units.tables
    }
    tables = tuple(
        msgspec.structs.replace(table, dim=dims.get(table.name, table.dim))
        for table in schema.tables
    )
    changed = Schema(features=schema.features, tables=tables, tasks=schema.tasks)
    if isinstance(model, RankingModel):
        model.schema = changed
    return changed


def difference(
    model: nn.Module,
    schema: Schema,
    smaller: nn.Module,
    units: Units,
    kept: NDArray[np.bool_],
) -> float:
    """Return how far a smaller model is from the first with the units' parameters at zero.

    Returns:
        The largest difference of an output, as a share of the outputs' spread; infinity if the
        smaller one cannot be called.
    """
    features = draw_features(schema, _ROWS, np.random.default_rng(0))
    masked = _copied(model, positions_left(model, units, kept)).eval()
    with torch.no_grad():
        named = state_of(masked)
        for site in units.sites:
            gone = ~kept[site.ids]
            for (name, axis), positions in site.places.items():
                index = torch.from_numpy(positions[gone].reshape(-1))
                named[name].index_fill_(axis, index, 0.0)
        wanted = cast("Tensor", masked(features))
        try:
            found = cast("Tensor", smaller.eval()(features))
        except (RuntimeError, IndexError, ValueError):
            return float("inf")
    if found.shape != wanted.shape:
        return float("inf")
    spread = float(wanted.std()) or 1.0
    return float((found - wanted).abs().max()) / spread


def removable(model: nn.Module, schema: Schema, units: Units) -> tuple[Units, list[str]]:
    """Return the units that the model's code can do without, and why others stay.

    One unit is taken out of all sites for trial, and if that fails, of each alone: code that names
    a width in numbers fails then, or computes something else.
    """
    sites = [site for site in units.sites if len(site) > 1]
    if _can_do_without(model, schema, units, sites):
        return replace(units, sites=tuple(sites)), []
    good = [site for site in sites if _can_do_without(model, schema, units, [site])]
    notes = [
        f"{site.name!r} stays as wide as it is: the model's code depends on its width; "
        "let forward take widths from parameters, not from numbers"
        for site in sites
        if site not in good
    ]
    return replace(units, sites=tuple(good)), notes


def _can_do_without(model: nn.Module, schema: Schema, units: Units, sites: Sequence[Site]) -> bool:
    """Try the model without one unit of each site."""
    kept = np.ones(units.count, np.bool_)
    for site in sites:
        kept[site.ids[-1]] = False
    smaller, _, _ = take_out(model, schema, units, kept, shared=True)
    return difference(model, schema, smaller, units, kept) <= _CLOSE


def _copied(model: Module, left: Kept) -> Module:
    """Return a copy with tensors of its own only where positions are lost: tables are large."""
    touched = {name for name, _ in left}
    memo = {id(t): t for name, t in state_of(model).items() if name not in touched}
    return copy.deepcopy(model, memo)


def positions_left(
    model: nn.Module, units: Units, kept: NDArray[np.bool_]
) -> dict[Place, NDArray[np.int64]]:
    """Return, for each axis of a parameter that loses positions, those it keeps."""
    lost: dict[Place, list[NDArray[np.int64]]] = {}
    for site in units.sites:
        gone = ~kept[site.ids]
        if gone.any():
            for place, positions in site.places.items():
                lost.setdefault(place, []).append(positions[gone].reshape(-1))
    sizes = {name: tuple(tensor.shape) for name, tensor in state_of(model).items()}
    return {
        (name, axis): np.setdiff1d(np.arange(sizes[name][axis]), np.concatenate(parts))
        for (name, axis), parts in lost.items()
    }


def taken_from(tensors: Mapping[str, Tensor], left: Kept) -> dict[str, Tensor]:
    """Return tensors with those positions of their axes that are left."""
    return {name: _taken(tensor, name, left) for name, tensor in tensors.items()}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _taken(tensor: Tensor, name: str, left: Kept) -> Tensor:
    for axis in range(tensor.dim()):
        kept = left.get((name, axis))
        if kept is not None:
            tensor = tensor.detach().index_select(axis, torch.from_numpy(kept))
    return tensor


def _resize(module: nn.Module) -> None:
    """Let a module of torch know the widths of its parameters; others have none of their own."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif isinstance(module, nn.GRU):
        weights = module.all_weights[0]
        module.input_size, module.hidden_size = weights[0].shape[1], weights[1].shape[1]
