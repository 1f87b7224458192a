"""Exact clean-up of a captured graph: noise out, one form for every reshape, norms folded."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx

from headway.core import CaptureError
from headway.graph import products
from headway.graph.nodes import (
    CASTS,
    CHECKS,
    NOISE,
    RESHAPES,
    aten,
    constant,
    emit,
    reshaped,
    static,
    value_of,
    where,
    whole_slice,
)
from headway.graph.unfold import unfold_rows
from headway.graph.unpack import unpack
from headway.graph.zeros import drop_zeros


def simplify(module: fx.GraphModule) -> None:
    """Rewrite the graph in place into fewer forms with the same values.

    Afterwards there are no checks, copies, identity slices or operations on constants; every change of shape alone is
    one ``reshape`` with at most one ``-1``; ``stack`` is ``cat``; products with constant matrices are ``linear``;
    evaluation-mode batch norms are folded into the linear before them, or are one product and
    one sum.
    """
    unpack(module)
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if CHECKS.search(str(node.target)):
            module.graph.erase_node(node)
            continue
        with module.graph.inserting_before(node):
            better = _folded(module, node, known) or _better(module, node)
        if better is not None and better is not node:
            node.replace_all_uses_with(better)
            module.graph.erase_node(node)
    unfold_rows(module)
    drop_zeros(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _better(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    target = node.target
    if target in NOISE or (target in CASTS and _same_type(node)) or whole_slice(node):
        return cast("fx.Node", node.args[0])
    if target in RESHAPES:
        return reshaped(node, cast("fx.Node", node.args[0]))
    rule = _RULES.get(target)
    return None if rule is None else rule(module, node)


def _folded(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> fx.Node | None:
    """Compute what depends on constants alone; several results wait in ``known``."""
    sources = {n: known.get(n, value_of(module, n)) for n in node.all_input_nodes}
    if any(value is None for value in sources.values()) or not _is_tensors(node.meta["val"]):
        return None
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise CaptureError(f"{node.target} is random{where(node)}; score without randomness")
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: sources[n])
    with torch.no_grad():
        value = cast("Callable[..., Any]", node.target)(*args, **kwargs)
    if isinstance(value, Tensor):
        return constant(module, value, node)
    known[node] = value
    return node


def _is_tensors(value: object) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, tuple | list) and all(isinstance(v, Tensor) for v in value)
    )


def _same_type(node: fx.Node) -> bool:
    before, after = cast("fx.Node", node.args[0]).meta["val"], node.meta["val"]
    return bool(before.dtype == after.dtype)


def _stack(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a stack into a cat of parts with one more axis."""
    parts = cast("Sequence[fx.Node]", node.args[0])
    rank = len(node.meta["val"].shape)
    dim = cast("int", node.args[1]) % rank if len(node.args) > 1 else 0
    sizes = list(parts[0].meta["val"].shape)[1:]
    if dim == 0 or not all(static(s) for s in sizes):
        return None
    target = [-1, *sizes[: dim - 1], 1, *sizes[dim - 1 :]]
    lines = [emit(module.graph, aten.reshape.default, p, target) for p in parts]
    joined = emit(module.graph, aten.cat.default, lines, dim)
    joined.meta = {**node.meta, "val": joined.meta["val"]}
    return joined


def _join(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    if len(cast("Sequence[fx.Node]", node.args[0])) == 1:
        return cast("Sequence[fx.Node]", node.args[0])[0]
    dim = cast("int", node.args[1]) if len(node.args) > 1 else 0
    rank = len(node.meta["val"].shape)
    node.args = (_of_one_type(node), dim)
    return _pick_columns(module, node) if rank == 2 and dim % rank == 1 else None


def _of_one_type(node: fx.Node) -> list[fx.Node]:
    """Return the parts of a concatenation, cast as it casts them: alone they are used as well."""
    kind = node.meta["val"].dtype
    return [
        part
        if part.meta["val"].dtype == kind
        else emit(node.graph, aten._to_copy.default, part, dtype=kind)  # noqa: SLF001
        for part in cast("Sequence[fx.Node]", node.args[0])
    ]


def _pick_columns(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Take neighbours that are cut out of one value in one piece (the dots of a DLRM)."""
    parts: list[fx.Node] = []
    runs: list[tuple[fx.Node, list[Tensor]]] = []
    for part in cast("Sequence[fx.Node]", node.args[0]):
        base, columns = _cut_out(module, part)
        if parts and base is not part and runs[-1][0] is base:
            runs[-1][1].append(columns)
            continue
        parts.append(part)
        runs.append((base, [columns]))
    if len(parts) == len(cast("Sequence[fx.Node]", node.args[0])):
        return None
    for i, (base, pieces) in enumerate(runs):
        if len(pieces) > 1:
            width = prod(base.meta["val"].shape[1:])
            flat = emit(module.graph, aten.reshape.default, base, [-1, width])
            index = constant(module, torch.cat(pieces), node)
            parts[i] = emit(module.graph, aten.index_select.default, flat, 1, index)
    joined = emit(module.graph, aten.cat.default, parts, -1) if len(parts) > 1 else parts[0]
    joined.meta = {**node.meta, "val": joined.meta["val"]}
    return joined


def _cut_out(module: fx.GraphModule, part: fx.Node) -> tuple[fx.Node, Tensor]:
    """Return what a value is cut out of, and its columns there once that is flat rows."""
    steps: list[fx.Node] = []
    base = part
    while base.target in _CUTS and _cuts_rows_whole(module, base):
        steps.append(base)
        base = cast("fx.Node", base.args[0])
    sizes = base.meta["val"].shape[1:]
    numbers = torch.arange(prod(sizes)).reshape(1, *sizes)
    for step in reversed(steps):
        args, kwargs = fx.map_arg((step.args[1:], step.kwargs), lambda n: value_of(module, n))
        numbers = cast("Callable[..., Tensor]", step.target)(numbers, *args, **kwargs)
    return base, numbers.flatten()


def _cuts_rows_whole(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether the first axis stays whole and everything else is known."""
    source = cast("fx.Node", node.args[0])
    before, after = source.meta["val"].shape, node.meta["val"].shape
    known = all(value_of(module, n) is not None for n in node.all_input_nodes if n is not source)
    static = all(isinstance(s, int) for s in (*before[1:], *after[1:]))
    symbolic = before and after and not isinstance(before[0], int)
    return bool(known and static and symbolic and str(before[0]) == str(after[0]))


def _lookup(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Look ids up first and change the shape of the vectors after."""
    ids = cast("fx.Node", node.args[1])
    if ids.target is not aten.reshape.default:
        return None
    found = emit(module.graph, aten.embedding.default, node.args[0], ids.args[0])
    found.meta = {**node.meta, "val": found.meta["val"]}
    return reshaped(node, found)


def _mapped(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Look ids up in a map of one axis first, and change the shape after."""
    numbers = value_of(module, node.args[0])
    (ids,) = cast("Sequence[fx.Node | None]", node.args[1])[:1]
    if numbers is None or numbers.dim() != 1 or ids is None or node.meta["val"].is_floating_point():
        return None
    if ids.target is not aten.reshape.default:
        return None
    found = emit(module.graph, aten.index.Tensor, node.args[0], [ids.args[0]])
    found.meta = {**node.meta, "val": found.meta["val"]}
    return reshaped(node, found)


def _expand(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Name only the dims that change, so that the number of rows is not asked for."""
    source = cast("fx.Node", node.args[0])
    before, after = list(source.meta["val"].shape), list(node.meta["val"].shape)
    before = [None] * (len(after) - len(before)) + before
    if after == before:
        return source
    sizes = [-1 if a == b else a for a, b in zip(after, before, strict=True)]
    if not all(static(s) for s in sizes):
        return None
    return emit(module.graph, aten.expand.default, source, sizes)


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Fold ``(x - mean) / sqrt(var + eps) * weight + bias`` (Ioffe & Szegedy 2015, section 3.1)."""
    norm, position = cast("tuple[fx.Node, int]", node.args)
    if norm.target is not aten._native_batch_norm_legit_no_training.default or position:  # noqa: SLF001
        return None
    source = cast("fx.Node", norm.args[0])
    weight, bias, mean, variance = (value_of(module, a) for a in norm.args[1:5])
    if mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance.double() + cast("float", norm.args[6]))
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale + (0.0 if bias is None else bias.double())
    kind = mean.dtype
    matrix = value_of(module, source.args[1]) if source.target is aten.linear.default else None
    rank = len(source.meta["val"].shape)
    if matrix is not None and rank == 2 and len(source.users) == 1:
        old = value_of(module, source.args[2]) if len(source.args) > 2 else None
        shift = shift if old is None else shift + old.double() * scale
        folded = constant(module, (matrix.double() * scale[:, None]).to(kind), node)
        offset = constant(module, shift.to(kind), node)
        return emit(module.graph, aten.linear.default, source.args[0], folded, offset)
    shape = [-1, *[1] * (rank - 2)]
    factor = constant(module, scale.to(kind).reshape(shape), node)
    product = emit(module.graph, aten.mul.Tensor, source, factor)
    offset = constant(module, shift.to(kind).reshape(shape), node)
    return emit(module.graph, aten.add.Tensor, product, offset)


_CUTS = (
    aten.select.int,
    aten.slice.Tensor,
    aten.reshape.default,
    aten.index.Tensor,
    aten.index_select.default,
)
_Rule = Callable[[fx.GraphModule, fx.Node], fx.Node | None]
_RULES: dict[Any, _Rule] = {
    aten.stack.default: _stack,
    aten.cat.default: _join,
    aten.mm.default: products.product,
    aten.bmm.default: products.outer,
    aten.matmul.default: products.product,
    aten.tensordot.default: products.tensordot,
    aten.addmm.default: products.added_product,
    aten.expand.default: _expand,
    aten.embedding.default: _lookup,
    aten.index.Tensor: _mapped,
    operator.getitem: _batch_norm,
}
