"""Exact clean-up of a captured graph: noise out, one form for every reshape, norms folded."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx

from headway.core import CaptureError

aten = torch.ops.aten
NOISE = (
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten.dropout.default,
)
CASTS = (aten.to.dtype, aten._to_copy.default, aten.type_as.default)  # noqa: SLF001
RESHAPES = (
    aten.view.default,
    aten._unsafe_view.default,  # noqa: SLF001
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
CHECKS = re.compile(r"assert|sym_constrain")
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')


def simplify(module: fx.GraphModule) -> None:
    """Rewrite the graph in place into fewer forms with the same values.

    Afterwards there are no checks, copies, identity slices or operations on constants; every change of shape alone is
    one ``reshape`` with at most one ``-1``; ``stack`` is ``cat``; products with constant matrices are ``linear``;
    evaluation-mode batch norms are folded into the linear before them, or are one product and
    one sum.
    """
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
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def emit(graph: fx.Graph, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """Append a call with the shape of its result in ``meta["val"]``, as export leaves it.

    Raises:
        CaptureError: if the operation refuses these shapes.
    """
    node = graph.call_function(target, args, kwargs)
    fakes = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
    mode = next((v.fake_mode for v in _leaves(fakes) if hasattr(v, "fake_mode")), None)
    if mode is None:
        raise CaptureError(f"{target} has no tensor to work on; this is a bug of Headway")
    with mode, torch.no_grad():
        node.meta["val"] = target(*fakes[0], **fakes[1])
    return node


def constant(module: fx.GraphModule, value: Tensor, like: fx.Node) -> fx.Node:
    """Add a constant to the module and return the node that reads it."""
    name = f"folded_{len(dict(module.named_buffers()))}"
    module.register_buffer(name, value)
    node = module.graph.get_attr(name)
    node.meta["val"] = like.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
    return node


def where(node: fx.Node) -> str:
    """Return " at file:line in module 'name'" for the user's line that made a node."""
    places = _PLACE.findall(node.meta.get("stack_trace") or "")
    own = [p for p in places if "/torch/" not in p[0]]
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    name = modules[-1][0].removeprefix("model").removeprefix(".") if modules else ""
    place = f" at {own[-1][0]}:{own[-1][1]}" if own else ""
    return place + (f" in module {name!r}" if name else "")


def value_of(module: fx.GraphModule, node: object) -> Tensor | None:
    """Return the tensor behind a node that reads a constant, else None."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        return cast("Tensor", getattr(module, str(node.target)))
    return None


def _leaves(tree: object) -> list[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [tree]


def _better(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    target = node.target
    if target in NOISE or (target in CASTS and _same_type(node)) or _whole_slice(node):
        return cast("fx.Node", node.args[0])
    if target in RESHAPES:
        return _reshape(node, cast("fx.Node", node.args[0]))
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


def _whole_slice(node: fx.Node) -> bool:
    if node.target is not aten.slice.Tensor:
        return False
    before, after = cast("fx.Node", node.args[0]).meta["val"], node.meta["val"]
    step = node.args[4] if len(node.args) > 4 else 1
    # A symbolic size equals itself only if nothing was cut off.
    return bool(step == 1) and [str(s) for s in before.shape] == [str(s) for s in after.shape]


def _static(size: object) -> bool:
    return isinstance(size, int)


def _sizes(node: fx.Node) -> list[int] | None:
    """Return the node's shape with -1 for its one symbolic dim, or None if there are more."""
    sizes = [d if isinstance(d, int) else -1 for d in node.meta["val"].shape]
    return sizes if sizes.count(-1) <= 1 and 0 not in sizes else None


def _reshape(node: fx.Node, source: fx.Node) -> fx.Node | None:
    while source.target is aten.reshape.default:
        source = cast("fx.Node", source.args[0])
    if list(source.meta["val"].shape) == list(node.meta["val"].shape):
        return source
    sizes = _sizes(node)
    if sizes is None:
        return None
    better = emit(node.graph, aten.reshape.default, source, sizes)
    better.meta = {**node.meta, "val": node.meta["val"]}
    return better


def _stack(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a stack into a cat of parts with one more axis."""
    parts = cast("Sequence[fx.Node]", node.args[0])
    rank = len(node.meta["val"].shape)
    dim = cast("int", node.args[1]) % rank if len(node.args) > 1 else 0
    sizes = list(parts[0].meta["val"].shape)[1:]
    if dim == 0 or not all(_static(s) for s in sizes):
        return None
    target = [-1, *sizes[: dim - 1], 1, *sizes[dim - 1 :]]
    lines = [emit(module.graph, aten.reshape.default, p, target) for p in parts]
    joined = emit(module.graph, aten.cat.default, lines, dim)
    joined.meta = {**node.meta, "val": joined.meta["val"]}
    return joined


def _join(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    dim = cast("int", node.args[1]) if len(node.args) > 1 else 0
    rank = len(node.meta["val"].shape)
    return _pick_columns(module, node) if rank == 2 and dim % rank == 1 else None


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
    return _reshape(node, found)


def _product(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a product with a constant matrix on the right into a linear."""
    matrix = value_of(module, node.args[1])
    if matrix is None or matrix.dim() != 2:
        return None
    turned = constant(module, matrix.t().contiguous(), node)
    return emit(module.graph, aten.linear.default, node.args[0], turned)


def _added_product(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    bias, matrix = value_of(module, node.args[0]), value_of(module, node.args[2])
    if bias is None or matrix is None or bias.dim() != 1 or node.kwargs:
        return None
    turned = constant(module, matrix.t().contiguous(), node)
    return emit(module.graph, aten.linear.default, node.args[1], turned, node.args[0])


def _expand(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Name only the dims that change, so that the number of rows is not asked for."""
    source = cast("fx.Node", node.args[0])
    before, after = list(source.meta["val"].shape), list(node.meta["val"].shape)
    before = [None] * (len(after) - len(before)) + before
    if after == before:
        return source
    sizes = [-1 if a == b else a for a, b in zip(after, before, strict=True)]
    if not all(_static(s) for s in sizes):
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
    aten.mm.default: _product,
    aten.matmul.default: _product,
    aten.addmm.default: _added_product,
    aten.expand.default: _expand,
    aten.embedding.default: _lookup,
    operator.getitem: _batch_norm,
}
