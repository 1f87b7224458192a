"""Random small models over values of both scopes, for the property that no rule changes a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from headway.core import Dense, Schema, Scope, Sequence, Sparse, Table

HISTORY, DIM = 3, 4
PROGRAM_SCHEMA = Schema(
    features=(
        Dense(name="x", scope=Scope.QUERY, width=DIM),
        Sparse(name="u", table="ids", scope=Scope.QUERY),
        Sequence(name="s", table="ids", scope=Scope.QUERY, max_length=HISTORY),
        Dense(name="y", scope=Scope.CANDIDATE, width=DIM),
        Sparse(name="i", table="ids", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="ids", rows=9, dim=DIM),),
)
Step = tuple[str, int, int, int]
NAMES = (
    *("cat", "cat_inner", "stack", "add", "sub", "mul", "div", "matmul", "gram", "attend"),
    *("linear", "relu", "square", "scale", "shift", "norm", "softmax", "negate", "compress"),
    *("sum", "mean", "slice", "select", "turn", "flatten", "unsqueeze", "expand", "fold", "split"),
)


def programs() -> st.SearchStrategy[list[Step]]:
    """Return a strategy of steps: an operation and which values and axes it takes."""
    number = st.integers(0, 11)
    return st.lists(
        st.tuples(st.sampled_from(NAMES), number, number, number), min_size=2, max_size=9
    )


class Program(nn.Module):
    """Runs steps over a growing list of values; steps that do not fit their values are left out."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        torch.manual_seed(len(steps))
        self.steps = steps
        self.ids = nn.Embedding(9, DIM)
        self.layers = nn.ModuleDict()
        self.register_buffer("numbers", torch.linspace(-1, 1, 64))
        self.numbers: Tensor

    def forward(self, features: dict[str, Any]) -> Tensor:
        history, mask = features["s"]
        values: list[Tensor] = [
            features["x"],
            self.ids(features["u"]),
            features["y"],
            self.ids(features["i"]),
            self.ids(history) * mask.unsqueeze(-1),
            self.ids(features["i"]).unsqueeze(1),
        ]
        for place, (name, a, b, c) in enumerate(self.steps):
            # Late values are taken more often, so that programs grow deep.
            first, second = values[-1 - a % len(values)], values[-1 - b % len(values)]
            made = getattr(self, f"_{name}")(first, second, c, f"{place}")
            if made is not None and made.dim() < 5 and made[0].numel() <= 400:
                values.append(made)
        flat = [v.flatten(1) for v in values[-4:]]
        mixed = torch.cat([values[3], *flat], 1)
        result: Tensor = self._layer("out", mixed.shape[1], 1)(torch.tanh(mixed * 0.1))
        return result

    def _layer(self, key: str, width: int, outputs: int) -> nn.Module:
        if key not in self.layers:
            dtype = self.ids.weight.dtype
            self.layers[key] = nn.Linear(width, outputs).to(dtype)
        return self.layers[key]

    def _constant(self, count: int) -> Tensor:
        return self.numbers[:count] if count <= 64 else self.numbers[:1]

    def _cat(self, a: Tensor, b: Tensor, c: int, _: str) -> Tensor | None:
        axis = 1 + c % (a.dim() - 1) if a.dim() > 1 else 0
        fits = a.dim() == b.dim() and all(
            d == axis or a.shape[d] == b.shape[d] for d in range(1, a.dim())
        )
        return torch.cat([a, b, a] if c % 2 else [b, a], axis) if axis and fits else None

    def _cat_inner(self, a: Tensor, b: Tensor, _c: int, key: str) -> Tensor | None:
        return self._cat(a, b, 0, key)

    def _stack(self, a: Tensor, b: Tensor, c: int, _: str) -> Tensor | None:
        return torch.stack([a, b], 1 + c % a.dim()) if a.shape[1:] == b.shape[1:] else None

    def _pair(self, a: Tensor, b: Tensor, do: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        fits = a.dim() == b.dim() and all(
            s == t or 1 in (s, t) for s, t in zip(a.shape[1:], b.shape[1:], strict=True)
        )
        return do(a, b) if fits else None

    def _add(self, a: Tensor, b: Tensor, _c: int, _: str) -> Tensor | None:
        return self._pair(a, b, torch.add)

    def _sub(self, a: Tensor, b: Tensor, _c: int, _: str) -> Tensor | None:
        return self._pair(a, b, torch.sub)

    def _mul(self, a: Tensor, b: Tensor, _c: int, _: str) -> Tensor | None:
        return self._pair(a, b, torch.mul)

    def _div(self, a: Tensor, b: Tensor, _c: int, _: str) -> Tensor | None:
        return self._pair(a, b, lambda s, t: s / (2.0 + t * t))

    def _matmul(self, a: Tensor, b: Tensor, _c: int, _: str) -> Tensor | None:
        if a.dim() == b.dim() == 3 and a.shape[2] == b.shape[1]:
            return a @ b
        return (
            a @ b.transpose(1, 2) if a.dim() == b.dim() == 3 and a.shape[2] == b.shape[2] else None
        )

    def _gram(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor | None:
        if a.dim() != 3 or a.shape[1] < 2:
            return None
        products = torch.bmm(a, a.transpose(1, 2))
        if c % 3 == 0:
            return products
        rows, columns = torch.tril_indices(a.shape[1], a.shape[1], offset=-1)
        return products[:, rows, columns] if c % 3 == 1 else products.flatten(1)

    def _attend(self, a: Tensor, b: Tensor, _c: int, key: str) -> Tensor | None:
        if a.dim() != 3 or b.dim() != 2 or a.shape[2] != b.shape[1]:
            return None
        spread = b.unsqueeze(1).expand_as(a)
        pairs = torch.cat([a, spread, a - spread, a * spread], 2)
        hidden = torch.relu(self._layer(f"{key}a", pairs.shape[2], 3)(pairs))
        weights = self._layer(f"{key}b", 3, 1)(hidden).squeeze(2)
        return torch.bmm(weights.unsqueeze(1), a).squeeze(1)

    def _linear(self, a: Tensor, _b: Tensor, c: int, key: str) -> Tensor:
        made: Tensor = self._layer(key, a.shape[-1], 1 + c % 4)(a)
        return made

    def _relu(self, a: Tensor, _b: Tensor, _c: int, _: str) -> Tensor:
        return torch.relu(a)

    def _square(self, a: Tensor, _b: Tensor, _c: int, _: str) -> Tensor:
        return a**2

    def _scale(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor:
        return a * self._constant(a.shape[-1]) if c % 2 else 0.5 * a

    def _shift(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor:
        return self._constant(a.shape[-1]) - a if c % 2 else a + 0.3

    def _norm(self, a: Tensor, _b: Tensor, _c: int, key: str) -> Tensor | None:
        if a.dim() != 2:
            return None
        if key not in self.layers:
            layer = nn.BatchNorm1d(a.shape[1]).eval()
            layer.running_mean = self._constant(1).clone().expand(a.shape[1]).contiguous()
            self.layers[key] = layer.to(self.ids.weight.dtype)
        made: Tensor = self.layers[key](a)
        return made

    def _softmax(self, a: Tensor, _b: Tensor, _c: int, _: str) -> Tensor:
        return torch.softmax(a, -1)

    def _negate(self, a: Tensor, _b: Tensor, _c: int, _: str) -> Tensor:
        return -a

    def _compress(self, a: Tensor, _b: Tensor, _c: int, key: str) -> Tensor:
        inner = self._layer(f"{key}a", a.shape[-1], 1)(a)
        made: Tensor = self._layer(f"{key}b", 1, 3)(inner)
        return made

    def _sum(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor:
        return a.sum(1 + c % (a.dim() - 1), keepdim=c % 2 == 0 or a.dim() == 2)

    def _mean(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor:
        return a.mean(1 + c % (a.dim() - 1), keepdim=c % 2 == 0 or a.dim() == 2)

    def _slice(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor | None:
        axis = 1 + c % (a.dim() - 1)
        size = a.shape[axis]
        return a.narrow(axis, c % size, max(1, (size - c % size) // 2)) if size > 1 else None

    def _select(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor | None:
        return a.select(1 + c % (a.dim() - 1), -1) if a.dim() > 2 else None

    def _turn(self, a: Tensor, _b: Tensor, _c: int, _: str) -> Tensor | None:
        return a.transpose(1, 2) if a.dim() > 2 else None

    def _flatten(self, a: Tensor, _b: Tensor, _c: int, _: str) -> Tensor:
        return a.flatten(1)

    def _unsqueeze(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor | None:
        return a.unsqueeze(1 + c % a.dim()) if a.dim() < 4 else None

    def _expand(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor | None:
        axis = 1 + c % (a.dim() - 1)
        sizes = [-1] * a.dim()
        sizes[axis] = HISTORY
        return a.expand(sizes) if a.shape[axis] == 1 else None

    def _fold(self, a: Tensor, _b: Tensor, _c: int, key: str) -> Tensor | None:
        if a.dim() != 3:
            return None
        hidden = torch.relu(self._layer(key, a.shape[2], 2)(a.reshape(-1, a.shape[2])))
        return (hidden - hidden.mean(1, keepdim=True)).view(-1, a.shape[1], 2)

    def _split(self, a: Tensor, _b: Tensor, c: int, _: str) -> Tensor | None:
        size = a.shape[-1]
        return torch.split(a, [1, size - 1], -1)[c % 2] if size > 1 else None
