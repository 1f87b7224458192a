"""The reference runner: the trained module itself, eager torch, one row per candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headway.core import (
    Column,
    Columns,
    Hidden,
    MissingDependencyError,
    ModelInput,
    Piece,
    Ragged,
    Schema,
    concat_columns,
    model_inputs,
    slice_columns,
)

try:
    import torch
except ImportError as error:
    raise MissingDependencyError("torch", "optimize", "running the unoptimised model") from error


class TorchRunner:
    """Implements ``core.Runner`` by calling a module; holds the GIL for much of a call.

    Threads therefore do not help; run one process per core (``engine.process``).
    """

    def __init__(
        self, module: torch.nn.Module, schema: Schema, *, threads: int | None = None
    ) -> None:
        """Put the module into evaluation mode.

        Args:
            module: takes what ``core.model_inputs`` makes as tensors, gives ``[rows, tasks]``.
            schema: of the module.
            threads: threads inside one torch operation, for the whole process; None leaves
                torch's own choice.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self._module = module.eval()
        self._schema = schema

    def query(self, context: Columns) -> Hidden:
        """Keep the context: an unoptimised model computes nothing once per query."""
        return context

    def candidates(self, pieces: Sequence[Piece]) -> None:
        """Score the pieces in one forward pass, the context repeated for every candidate."""
        pieces = [piece for piece in pieces if piece.stop > piece.start]
        if not pieces:
            return
        rows = concat_columns([_expanded(piece) for piece in pieces])
        features = {n: _tensors(value) for n, value in model_inputs(rows, self._schema).items()}
        with torch.inference_mode():
            raw = self._module(features).numpy()
        row = 0
        for piece in pieces:
            count = piece.stop - piece.start
            piece.out[piece.start : piece.stop] = raw[row : row + count]
            row += count

    def close(self) -> None:
        """Hold nothing but the module; nothing to give back."""


def _expanded(piece: Piece) -> dict[str, Column]:
    context: Columns = piece.hidden  # type: ignore[assignment]
    count = piece.stop - piece.start
    rows = {name: _repeated(column, count) for name, column in context.items()}
    return rows | slice_columns(piece.candidates, piece.start, piece.stop)


def _repeated(column: Column, count: int) -> Column:
    if isinstance(column, Ragged):
        length = len(column.values)
        offsets = np.arange(count + 1, dtype=np.int64) * length
        return Ragged(np.tile(column.values, count), offsets)
    return np.repeat(column, count, axis=0)


def _tensors(value: ModelInput) -> torch.Tensor | tuple[torch.Tensor, ...]:
    if isinstance(value, tuple):
        return tuple(_tensor(array) for array in value)
    return _tensor(value)


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    # torch has no read-only tensors and warns of arrays that are; such ones are copied.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
