"""Where a program's values lie: in inputs, in outputs, or in buffers of a chunk of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.bundle import (
    Concat,
    Product,
    Program,
    QueryDots,
    QueryProduct,
    Rest,
    Softmax,
    Steps,
    Weave,
)
from headway.bundle import Map as MapStep
from headway.engine import products
from headway.engine.products import VALUE

_LINE = 64
_MAKING = Product | QueryProduct | QueryDots | MapStep | Softmax | Rest | Weave


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value is.

    Attributes:
        home: input, output or buffer that holds it.
        column: its first column there.
        width: its columns.
        codes: whether it is bytes.
    """

    home: str
    column: int
    width: int
    codes: bool = False

    def part(self, start: int, stop: int) -> Spot:
        """Return the place of some of its columns."""
        return Spot(self.home, self.column + start, stop - start, self.codes)


class Places:
    """Gives each value a place, and each place a number.

    Attributes:
        widths: columns of every value by name.
        inputs: width by name.
        outputs: name, home and width.
        buffers: bytes of a row by home.
        users: numbers of places and their byte offsets by home.
        scopes: which row of a home a candidate reads.
    """

    def __init__(self, program: Program) -> None:
        """Let steps write straight into the outputs and concatenations that take their results.

        Raises:
            BundleError: if the program does not fit together.
        """
        steps = program.steps
        self.widths = program.widths()
        self.inputs = dict(steps.inputs)
        self.buffers: dict[str, int] = {}
        self.users: dict[str, list[tuple[int, int]]] = {}
        self.scopes = {
            name: products.PER_QUERY if name.startswith("hidden.") else products.PER_ROW
            for name in self.inputs
        }
        self._spots = {name: Spot(name, 0, width) for name, width in self.inputs.items()}
        self._numbers: dict[Spot, int] = {}
        self._values: list[tuple[int, int, int]] = []
        self.outputs: list[tuple[str, str, int]] = []
        made = {s.result for s in steps.steps if isinstance(s, _MAKING)}
        self._plan_outputs(steps, made)
        self._plan_concats(steps, made)

    def spot(self, name: str) -> Spot:
        """Return where a value is; one without a place gets a buffer."""
        if name not in self._spots:
            self._spots[name] = self.buffer(f"value {name}", self.widths[name], 4)
        return self._spots[name]

    def row_bytes(self, name: str) -> int:
        """Return the bytes of a row of the buffer that holds a value; 0 if none does so far."""
        return self.buffers.get(self._spots[name].home, 0) if name in self._spots else 0

    def put(self, name: str, spot: Spot) -> None:
        """Say where a value is."""
        self._spots[name] = spot

    def output(self, name: str, width: int) -> Spot:
        """Return where an output is wanted."""
        return Spot(_output_home(name), 0, width)

    def buffer(self, home: str, width: int, size: int) -> Spot:
        """Return a new buffer of values of ``size`` bytes, whose rows start on cache lines."""
        self.buffers[home] = -(-width * size // _LINE) * _LINE
        self.scopes[home] = products.PER_CHUNK
        return Spot(home, 0, width, codes=size == 1)

    def number(self, spot: Spot) -> int:
        """Return the index of a place among ``values``."""
        if spot not in self._numbers:
            row_bytes = self.buffers.get(spot.home)
            if row_bytes is None:
                sizes = self.inputs | {home: width for _, home, width in self.outputs}
                row_bytes = 4 * sizes[spot.home]
            index = len(self._values)
            self._numbers[spot] = index
            self._values.append((0, row_bytes, self.scopes[spot.home]))
            offset = spot.column * (1 if spot.codes else 4)
            self.users.setdefault(spot.home, []).append((index, offset))
        return self._numbers[spot]

    def values(self) -> NDArray[np.void]:
        """Return a ``VALUE`` record for each number; their addresses are filled in later."""
        for home in [*self.inputs, *self.buffers, *(home for _, home, _ in self.outputs)]:
            self.users.setdefault(home, [])
        return np.array(self._values, VALUE)

    def is_private(self, number: int) -> bool:
        """Tell whether a place is a buffer of which nothing else uses a part."""
        home = next(h for h, users in self.users.items() if number in {i for i, _ in users})
        return home in self.buffers and len(self.users[home]) == 1

    def _plan_outputs(self, steps: Steps, made: set[str]) -> None:
        for name, value in steps.outputs.items():
            home = _output_home(name)
            self.outputs.append((name, home, self.widths[value]))
            self.scopes[home] = products.PER_ROW
            if value in made and value not in self._spots:
                self._spots[value] = self.output(name, self.widths[value])

    def _plan_concats(self, steps: Steps, made: set[str]) -> None:
        joined = {s.result for s in steps.steps if isinstance(s, Concat)}
        for step in reversed(steps.steps):
            if not isinstance(step, Concat):
                continue
            whole, column = self.spot(step.result), 0
            for source in step.sources:
                width = self.widths[source]
                if source not in self._spots and (source in made or source in joined):
                    self._spots[source] = whole.part(column, column + width)
                column += width


def _output_home(name: str) -> str:
    return f"output {name}"
