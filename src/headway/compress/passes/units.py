"""What can be taken out of a model: units, each with every place it has in the parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import nn

from headway.compress.passes.flow import Flow, Product
from headway.compress.passes.flow_rules import RULES
from headway.compress.passes.labels import Labels
from headway.core import Schema
from headway.graph import trace

Place = tuple[str, int]
"""A parameter of the model and one of its axes."""
_NOT_REMOVABLE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Units that lie in the same places: the neurons of a layer, say, or the dims of a table.

    Attributes:
        name: of the module that makes them.
        places: for each parameter and axis the positions of each unit, ``[units, positions]``.
        ids: of its units, ascending.
        table: whether they are columns of an embedding table.
        linear: whether all they pass through, up to the layers that read them, is linear.
    """

    name: str
    places: Mapping[Place, NDArray[np.int64]]
    ids: NDArray[np.int64]
    table: bool
    linear: bool

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Units:
    """All that may be removed from a model.

    Attributes:
        sites: in the order of the parameters.
        products: the model's matrix products; labels are ids of units, or -1.
        tables: table of the schema that a parameter holds, by the parameter's name.
    """

    sites: tuple[Site, ...]
    products: tuple[Product, ...]
    tables: Mapping[str, str]

    @cached_property
    def count(self) -> int:
        """The number of ids."""
        return 1 + max((int(site.ids.max()) for site in self.sites), default=-1)

    def site(self, name: str) -> Site:
        """Return the site of that name."""
        return next(site for site in self.sites if site.name == name)

    def flops(self, kept: NDArray[np.bool_] | None = None, *, query_rows: float = 1.0) -> float:
        """Return the operations of the model's matrix products for one candidate.

        Two for each multiply-add, as ``models.count_cost``.

        Args:
            kept: by id, which units are still there; by default all.
            query_rows: candidates of a query: what depends on the query alone is divided among
                them, as hoisting does.
        """
        kept = np.ones(self.count, np.bool_) if kept is None else kept
        kept = np.append(kept, True)  # what has no unit has the id -1 and stays
        return sum(
            2.0
            * product.times
            * float(kept[product.outer].sum())
            * float((kept[product.inner] * np.where(product.late, 1.0, 1.0 / query_rows)).sum())
            for product in self.products
        )


def find_units(model: nn.Module, schema: Schema) -> Units:
    """Return what may be taken out of a model without changing the meaning of anything else.

    Each position of each axis of each parameter is followed through the traced graph. Those that
    meet, as summands, as factors, in a residual connection, in a product, across a concatenation
    or in a table that several features share, stand and fall together: they are one unit. What
    meets the inputs, the outputs or an operation that mixes positions (a softmax, a norm over
    them) stays. The idea is that of Fang et al., "DepGraph: Towards Any Structural Pruning"
    (CVPR 2023), but position by position: so concatenations, slices and gates need no rules of
    their own.

    Args:
        model: as ``graph.capture`` takes it; left as it was.
        schema: of the model.

    Raises:
        CaptureError: if the model cannot be captured.
    """
    flow = _followed(model, schema)
    parameters = {name for name, _ in model.named_parameters()}
    members = _members(flow, parameters)
    sites, ids = _sites(flow, members, set(flow.tables))
    products = tuple(
        Product(p.times, _ids_of(flow, p.inner, ids), _ids_of(flow, p.outer, ids), p.late)
        for p in flow.products
    )
    return Units(sites, products, flow.tables)


def output_places(model: nn.Module, schema: Schema) -> list[list[tuple[str, tuple[int, ...], int]]]:
    """Return for each task where its output comes from: the last weights and biases.

    Each is a parameter, the shape of what it has for this output, which is empty for a bias, and
    the position on its first axis. What meets the output as a factor is among them too, and an
    output that shares its places with another has none.

    Raises:
        CaptureError: if the model cannot be captured.
    """
    flow = _followed(model, schema)
    parameters = {name for name, _ in model.named_parameters()}
    places: dict[int, list[tuple[str, tuple[int, ...], int]]] = defaultdict(list)
    for name, axes in flow.places.items():
        if name in parameters:
            shape = tuple(len(axis) for axis in axes[1:])
            for position, label in enumerate(axes[0].tolist()):
                places[flow.classes.root(label)].append((name, shape, position))
    roots = [flow.classes.root(label) if label >= 0 else None for label in flow.output.tolist()]
    alone = len(set(roots)) == len(roots)
    return [places[root] if alone and root is not None else [] for root in roots]


def shapes_of(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the names and shapes of all parameters and buffers."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())


_FOLLOWED: WeakKeyDictionary[nn.Module, tuple[object, Flow]] = WeakKeyDictionary()
"""Tracing takes seconds, and several passes ask about one module."""


def _followed(model: nn.Module, schema: Schema) -> Flow:
    """Return the walk over a model's graph, made anew where shapes have changed since."""
    key = (schema, shapes_of(model))
    known = _FOLLOWED.get(model)
    if known is not None and known[0] == key:
        return known[1]
    flow = Flow(trace(model, schema), canonical_names(model))
    flow.walk(RULES)
    flow.forget()
    _FOLLOWED[model] = (key, flow)
    return flow


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return the name that stands for each parameter or buffer; tied ones share one."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in everything:
        found[name] = first.setdefault(id(tensor), name)
    return found


def _members(flow: Flow, parameters: set[str]) -> dict[int, dict[Place, list[int]]]:
    """Return, for each class of positions that may go, where its positions are."""
    frozen = flow.classes.frozen()
    members: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for name, axes in flow.places.items():
        for axis, labels in enumerate(axes):
            for position, label in enumerate(labels.tolist()):
                root = flow.classes.root(label)
                if root not in frozen:
                    members[root][name, axis].append(position)
    # A unit that nothing reads, or that is not made by any parameter, is no gain to remove.
    return {
        root: dict(places)
        for root, places in members.items()
        if any(name in parameters for name, _ in places) and _is_read(flow, places)
    }


def _is_read(flow: Flow, places: Mapping[Place, list[int]]) -> bool:
    return any(len(flow.places[name]) > 1 and axis > 0 for name, axis in places)


def _sites(
    flow: Flow, members: Mapping[int, Mapping[Place, list[int]]], tables: set[str]
) -> tuple[tuple[Site, ...], dict[int, int]]:
    grouped: dict[tuple[tuple[Place, int], ...], list[int]] = defaultdict(list)
    for root, places in members.items():
        key = tuple(sorted((place, len(positions)) for place, positions in places.items()))
        grouped[key].append(root)
    bent = flow.classes.bent()
    sites: list[Site] = []
    ids: dict[int, int] = {}
    for key, roots in grouped.items():
        start = len(ids)
        ids.update({root: start + i for i, root in enumerate(roots)})
        at = {place: np.array([members[r][place] for r in roots]) for place, _ in key}
        sites.append(
            Site(
                name=_name(at, tables),
                places=at,
                ids=np.arange(start, start + len(roots), dtype=np.int64),
                table=any(name in tables for name, _ in at),
                linear=not any(root in bent for root in roots),
            )
        )
    return tuple(sites), ids


def _name(places: Mapping[Place, NDArray[np.int64]], tables: set[str]) -> str:
    """Return the module that makes the units: a table, else the first with them as outputs."""
    made = [name for name, axis in places if name in tables and axis == 1]
    made += [name for name, axis in places if axis == 0]
    made += [name for name, _ in places]
    return made[0].rpartition(".")[0] or made[0]


def _ids_of(flow: Flow, labels: Labels, ids: Mapping[int, int]) -> Labels:
    return np.array(
        [
            ids.get(flow.classes.root(label), _NOT_REMOVABLE) if label >= 0 else _NOT_REMOVABLE
            for label in labels.tolist()
        ],
        np.int64,
    )
