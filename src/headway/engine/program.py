"""Runs a tower's program: weights packed once, buffers per runner, all steps in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bundle import Program
from headway.core import BundleError
from headway.engine import products, tiles
from headway.engine.memory import line_room
from headway.engine.program_layout import Layout

Feed = Mapping[str, NDArray[Any]]
CHUNK_ROWS = 96
"""Rows of a chunk: its values stay in the second-level cache of a core."""


class ProgramEngine:
    """A tower's program ready to run: what all runners share.

    Attributes:
        inputs: names of what it is fed.
        outputs: names of what it gives.
        widths: columns of each input.
    """

    def __init__(self, program: Program) -> None:
        """Lay the values out and pack the weights.

        Raises:
            BundleError: if the program does not fit together.
        """
        self._layout = Layout(program)
        self.inputs = tuple(program.steps.inputs)
        self.outputs = tuple(program.steps.outputs)
        self.widths = dict(program.steps.inputs)

    def caller(self) -> ProgramRun:
        """Return what runs the program, with buffers of its own; for one thread at a time."""
        return ProgramRun(self._layout)


class ProgramRun:
    """Calls the compiled steps on what it is fed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._steps = layout.steps
        self._values = layout.values.copy()
        self._buffers = [line_room(CHUNK_ROWS * row_bytes) for row_bytes in layout.buffers.values()]
        for (home, _), buffer in zip(layout.buffers.items(), self._buffers, strict=True):
            for index, offset in layout.users[home]:
                self._values[index]["address"] = buffer.ctypes.data + offset
        self._scratch = line_room(tiles.SCRATCH_BYTES)
        self._scratch_address = self._scratch.ctypes.data

    def __call__(self, outputs: Sequence[str], feed: Feed) -> list[NDArray[np.float32]]:
        """Return the outputs of these names, float32 ``[rows, width]``.

        Args:
            outputs: names.
            feed: float32 C-contiguous arrays by input name, and ``row_to_query``, int64
                ``[rows]``, if values per query have more than one row.
        """
        layout, values = self._layout, self._values
        rows = len(feed[layout.counted])
        for home, width in layout.inputs.items():
            array = feed[home]
            if array.shape[1:] != (width,) or array.dtype != np.float32:
                raise BundleError(f"the tower takes {home!r} as float32 [rows, {width}]")
            address = products.address_of(array)
            for index, offset in layout.users[home]:
                values[index]["address"] = address + offset
        made = {}
        for name, home, width in layout.outputs:
            made[name] = array = np.empty((rows, width), np.float32)
            address = products.address_of(array)
            for index, offset in layout.users[home]:
                values[index]["address"] = address + offset
        mapping = feed.get("row_to_query")
        products.run_steps(
            self._steps,
            values,
            rows,
            0 if mapping is None else products.address_of(mapping),
            CHUNK_ROWS,
            self._scratch_address,
        )
        return [made[name] for name in outputs]
