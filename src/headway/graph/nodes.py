"""Reading and making nodes of a graph: what every pass over graphs needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any, cast
from weakref import WeakKeyDictionary

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
PICKS = (aten.index.Tensor, aten.index_select.default, aten.take.default)
"""Operations that may look ids up in a map."""
CHECKS = re.compile(r"assert|sym_constrain")
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')


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
    known = _SHAPES.setdefault(mode, {})
    key = (target, frozen(fakes, _layout))
    if key not in known:
        with mode, torch.no_grad():
            known[key] = target(*fakes[0], **fakes[1])
    node.meta["val"] = known[key]
    return node


_SHAPES: WeakKeyDictionary[Any, dict[Hashable, Any]] = WeakKeyDictionary()
"""Results by operation and arguments: an unrolled recurrence asks for the same over and over."""


def frozen(tree: object, leaf: Callable[[object], Hashable] = lambda value: value) -> Hashable:
    """Return nested arguments as a key, each leaf as ``leaf`` of it and its type."""
    if isinstance(tree, dict):
        return tuple((key, frozen(value, leaf)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return tuple(frozen(item, leaf) for item in tree)
    # 1 and 1.0 and True are equal, yet not the same argument.
    return (type(tree), leaf(tree))


def _layout(value: object) -> Hashable:
    """Return what the shape of a result depends on; a number of rows by its symbol."""
    if isinstance(value, Tensor):
        return (tuple(map(str, value.shape)), tuple(map(str, value.stride())), value.dtype)
    return str(value) if isinstance(value, torch.SymInt) else value


def constant(module: fx.GraphModule, value: Tensor, like: fx.Node) -> fx.Node:
    """Add a constant to the module and return the node that reads it."""
    number = len(dict(module.named_buffers()))
    # Shared tensors are counted once, so the count alone may name what is there already.
    while hasattr(module, f"folded_{number}"):
        number += 1
    name = f"folded_{number}"
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


def whole_slice(node: fx.Node) -> bool:
    """Tell whether a node is a slice that leaves nothing out."""
    if node.target is not aten.slice.Tensor:
        return False
    before, after = cast("fx.Node", node.args[0]).meta["val"], node.meta["val"]
    step = node.args[4] if len(node.args) > 4 else 1
    # A symbolic size equals itself only if nothing was cut off.
    return bool(step == 1) and [str(s) for s in before.shape] == [str(s) for s in after.shape]


def static(size: object) -> bool:
    """Tell whether a size is known."""
    return isinstance(size, int)


def _sizes(node: fx.Node) -> list[int] | None:
    """Return the node's shape with -1 for its one symbolic dim, or None if there are more."""
    sizes = [d if isinstance(d, int) else -1 for d in node.meta["val"].shape]
    return sizes if sizes.count(-1) <= 1 and 0 not in sizes else None


def reshaped(node: fx.Node, source: fx.Node) -> fx.Node | None:
    """Return ``source`` in the shape of ``node``, in one reshape; None if that cannot be said."""
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


def _leaves(tree: object) -> list[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [tree]
