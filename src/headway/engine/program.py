"""Runs a tower's program: weights packed once, buffers per runner, all steps in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bundle import Program
from headway.core import BundleError
from headway.engine import products
from headway.engine.memory import line_room
from headway.engine.program_layout import Layout
from headway.engine.seam import Shapes

Feed = Mapping[str, NDArray[Any]]


class ProgramEngine:
    """A tower's program ready to run: what all runners share.

    Attributes:
        inputs: values in a row of what it is fed, by name.
        outputs: names of what it gives.
        shapes: of a row of each output.
    """

    def __init__(self, program: Program) -> None:
        """Lay the values out and pack the weights.

        Raises:
            BundleError: if the program does not fit together.
        """
        self._layout = Layout(program)
        self.shapes = {
            name: program.steps.shapes.get(name, (width,))
            for name, _, width in self._layout.places.outputs
        }
        products.warm_up()
        self.inputs: Shapes = {name: (width,) for name, width in program.steps.inputs.items()}
        self.outputs = tuple(program.steps.outputs)

    def caller(self) -> ProgramRun:
        """Return what runs the program, with buffers of its own; for one thread at a time."""
        return ProgramRun(self._layout, self.shapes)


class ProgramRun:
    """Calls the compiled steps on what it is fed."""

    def __init__(self, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._layout, self._places, self._shapes = layout, layout.places, shapes
        self._steps = layout.steps
        self._values = layout.values.copy()
        buffers = self._places.buffers
        self._buffers = {
            home: line_room(products.CHUNK_ROWS * size) for home, size in buffers.items()
        }
        for home, buffer in self._buffers.items():
            self._place(home, buffer.ctypes.data)
        self._scratch = line_room(products.SCRATCH_BYTES)
        self._scratch_address = self._scratch.ctypes.data

    def __call__(self, outputs: Sequence[str], feed: Feed) -> list[NDArray[np.float32]]:
        """Return the outputs of these names, float32 ``[rows, ...]``.

        Args:
            outputs: names.
            feed: float32 C-contiguous arrays by input name, and ``row_to_query``, int64
                ``[rows]``, if values per query have more than one row.
        """
        rows = len(feed[self._layout.counted])
        for home, width in self._places.inputs.items():
            array = feed[home].reshape(len(feed[home]), -1) if feed[home].ndim != 2 else feed[home]
            if array.shape[1:] != (width,) or array.dtype != np.float32:
                raise BundleError(f"the tower takes {home!r} as float32 rows of {width} values")
            self._place(home, products.address_of(array))
        made = {}
        for name, home, width in self._places.outputs:
            made[name] = array = np.empty((rows, width), np.float32)
            self._place(home, products.address_of(array))
        mapping = feed.get("row_to_query")
        products.run_steps(
            self._steps,
            self._values,
            rows,
            0 if mapping is None else products.address_of(mapping),
            products.CHUNK_ROWS,
            self._scratch_address,
        )
        return [made[name].reshape(rows, *self._shapes[name]) for name in outputs]

    def _place(self, home: str, address: int) -> None:
        for index, offset in self._places.users[home]:
            self._values[index]["address"] = address + offset
