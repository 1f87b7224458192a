"""Runs a tower's program: weights packed once, buffers per runner, all steps in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bundle import Program, QueryProduct
from headway.core import BundleError
from headway.engine import products
from headway.engine.memory import line_room
from headway.engine.program_layout import Layout
from headway.engine.seam import Shapes

Feed = Mapping[str, NDArray[Any]]
_FLOAT = np.dtype(np.float32)


class ProgramEngine:
    """A tower's program ready to run: what all runners share.

    Attributes:
        inputs: values in a row of what it is fed, by name.
        outputs: names of what it gives.
        shapes: of a row of each output.
        one_query: whether it runs for one query at a time, by whose matrix rows are multiplied.
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
        self.one_query = any(
            isinstance(step, QueryProduct) and step.matrix.startswith("hidden.")
            for step in program.steps.steps
        )
        products.warm_up()
        self.inputs: Shapes = {name: (width,) for name, width in program.steps.inputs.items()}
        self.outputs = tuple(program.steps.outputs)

    def caller(self) -> ProgramRun:
        """Return what runs the program, with buffers of its own; for one thread at a time."""
        return ProgramRun(self._layout, self.shapes)


class ProgramRun:
    """Calls the compiled steps on what it is fed."""

    def __init__(self, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._layout = layout  # the steps hold addresses of what it keeps
        self._counted, self._shapes = layout.counted, shapes
        self._steps = layout.steps
        self._values = layout.values.copy()
        places = layout.places
        self._buffers = {
            home: line_room(layout.chunk_rows * size) for home, size in places.buffers.items()
        }
        for home, buffer in self._buffers.items():
            for index, offset in places.users[home]:
                self._values[index]["address"] = buffer.ctypes.data + offset
        self._fed = [
            (name, width, name.startswith("hidden.")) for name, width in places.inputs.items()
        ]
        self._made = [(name, width) for name, _, width in places.outputs]
        homes = [*places.inputs, *(home for _, home, _ in places.outputs)]
        users = [(i, at, skip) for at, home in enumerate(homes) for i, skip in places.users[home]]
        self._users = np.array(users, np.int64).reshape(-1, 3)
        self._scratch = line_room(products.SCRATCH_BYTES)
        self._scratch_address = self._scratch.ctypes.data

    def __call__(self, outputs: Sequence[str], feed: Feed) -> list[NDArray[np.float32]]:
        """Return the outputs of these names, float32 ``[rows, ...]``.

        Args:
            outputs: names.
            feed: float32 C-contiguous arrays by input name, and ``row_to_query``, int64
                ``[rows]``, if values per query have more than one row.
        """
        rows, mapping = len(feed[self._counted]), feed.get("row_to_query")
        queries = int(rows > 0) if mapping is None else _queries_of(mapping, rows)
        arrays: list[NDArray[Any]] = []
        for name, width, hidden in self._fed:
            array = feed[name]
            if array.ndim != 2 and array.size == len(array) * width:
                array = array.reshape(len(array), width)
            # Compiled code counts on all of this, and reads beyond where it does not hold.
            fits = array.ndim == 2 and array.shape[1] == width
            fits = fits and (len(array) >= queries if hidden else len(array) == rows)
            if not (fits and array.dtype == _FLOAT and array.flags.c_contiguous):
                raise BundleError(
                    f"the tower takes {name!r} as {queries if hidden else rows} rows of {width} float32 "
                    f"values, not as {array.dtype} {list(array.shape)}"
                )
            arrays.append(array)
        made = {name: np.empty((rows, width), np.float32) for name, width in self._made}
        arrays += made.values()
        if mapping is not None:
            arrays.append(mapping)
        held = tuple(arrays)  # its own header is read in compiled code
        told = 0 if mapping is None else len(held)
        job = (id(held), rows, told, self._layout.chunk_rows, self._scratch_address)
        products.run_steps(self._steps, self._values, self._users, job)
        shapes = self._shapes
        return [
            made[name] if len(shapes[name]) == 1 else made[name].reshape(rows, *shapes[name])
            for name in outputs
        ]


def _queries_of(mapping: NDArray[Any], rows: int) -> int:
    """Return how many queries' rows a map of rows asks for.

    Raises:
        BundleError: if it is none for so many rows.
    """
    plain = mapping.dtype == np.int64 and mapping.flags.c_contiguous
    if not plain or mapping.shape != (rows,) or (rows and int(mapping.min()) < 0):
        raise BundleError(f"row_to_query must be int64 [{rows}], from 0 on")
    return int(mapping.max()) + 1 if rows else 0
