"""Where a program's values lie, and its steps as the records that compiled code runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bundle import Codes, Concat, Map, Product, Program, Slice
from headway.core import BundleError
from headway.engine import finish, products
from headway.engine.memory import line_room
from headway.engine.products import STEP, VALUE
from headway.engine.tiles import LANES, WIDE

_LINE = 64
_ACTIVATIONS = {
    "": finish.LINEAR,
    "relu": finish.RELU,
    "sigmoid": finish.SIGMOID,
    "tanh": finish.TANH,
}
_COMBINATIONS = {
    "add": finish.ADD,
    "multiply": finish.MULTIPLY,
    "subtract": finish.SUBTRACT,
    "subtract-from": finish.SUBTRACT_FROM,
}


@dataclass(frozen=True, slots=True)
class _Spot:
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


class Layout:
    """Places for all values, and the records of all steps.

    Attributes:
        steps: ``STEP`` records.
        values: ``VALUE`` records whose addresses are filled in per call or per runner.
        inputs: width by name.
        outputs: name, home and width.
        buffers: bytes of a row by home.
        users: records of ``values`` and their byte offsets by home.
        counted: the input whose rows are the tower's.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._widths = program.widths()
        self._spots: dict[str, _Spot] = {}
        self._index: dict[_Spot, int] = {}
        self._values: list[tuple[int, int, int]] = []
        self._kept: list[NDArray[Any]] = []
        self.inputs = dict(program.steps.inputs)
        self.users: dict[str, list[tuple[int, int]]] = {}
        self.buffers: dict[str, int] = {}
        self.outputs: list[tuple[str, str, int]] = []
        self._scopes = {
            name: products.PER_QUERY if name.startswith("hidden.") else products.PER_ROW
            for name in self.inputs
        }
        self.counted = _counted(self._scopes)
        for name, width in self.inputs.items():
            self._spots[name] = _Spot(name, 0, width)
        self._plan_outputs()
        self._plan_concats()
        records: list[dict[str, Any]] = []
        for step in program.steps.steps:
            records += self._lower(step)
        for name, value in program.steps.outputs.items():
            if self._spots[value].home != self._output_home(name):
                records.append(self._copy(value, self._output_spot(name)))
        records = self._merged(records)
        self.steps = _as_array(records)
        self.values = np.array(self._values, VALUE)
        for home in [*self.inputs, *self.buffers, *(home for _, home, _ in self.outputs)]:
            self.users.setdefault(home, [])

    # Where values go.

    @staticmethod
    def _output_home(name: str) -> str:
        return f"output {name}"

    def _output_spot(self, name: str) -> _Spot:
        width = self._widths[self._program.steps.outputs[name]]
        return _Spot(self._output_home(name), 0, width)

    def _plan_outputs(self) -> None:
        """Let the step that makes an output write it where it is wanted."""
        made = {s.result for s in self._program.steps.steps if isinstance(s, Product | Map)}
        for name, value in self._program.steps.outputs.items():
            home = self._output_home(name)
            self.outputs.append((name, home, self._widths[value]))
            self._scopes[home] = products.PER_ROW
            if value in made and value not in self._spots:
                self._spots[value] = self._output_spot(name)

    def _plan_concats(self) -> None:
        """Let steps write straight into the concatenations that take their results."""
        made = {s.result for s in self._program.steps.steps if isinstance(s, Product | Map)}
        for step in reversed(self._program.steps.steps):
            if not isinstance(step, Concat):
                continue
            whole = self._spot(step.result)
            column = whole.column
            for source in step.sources:
                width = self._widths[source]
                free = source not in self._spots
                nested = any(
                    isinstance(s, Concat) and s.result == source for s in self._program.steps.steps
                )
                if free and (source in made or nested):
                    self._spots[source] = _Spot(whole.home, column, width)
                column += width

    def _spot(self, name: str) -> _Spot:
        """Return where a value is; one without a place gets a buffer."""
        if name not in self._spots:
            self._spots[name] = self._buffer(f"value {name}", self._widths[name], 4)
        return self._spots[name]

    def _buffer(self, home: str, width: int, size: int) -> _Spot:
        self.buffers[home] = -(-width * size // _LINE) * _LINE
        self._scopes[home] = products.PER_CHUNK
        return _Spot(home, 0, width, codes=size == 1)

    def _value(self, spot: _Spot) -> int:
        """Return the index of the record of a place."""
        if spot not in self._index:
            row_bytes = self.buffers.get(spot.home)
            if row_bytes is None:
                sizes = self.inputs | {home: width for _, home, width in self.outputs}
                row_bytes = 4 * sizes[spot.home]
            index = len(self._values)
            self._index[spot] = index
            self._values.append((0, row_bytes, self._scopes[spot.home]))
            offset = spot.column * (1 if spot.codes else 4)
            self.users.setdefault(spot.home, []).append((index, offset))
        return self._index[spot]

    # What the steps become.

    def _lower(self, step: Product | Map | Concat | Slice) -> list[dict[str, Any]]:
        if isinstance(step, Slice):
            whole = self._spot(step.source)
            self._spots[step.result] = _Spot(
                whole.home, whole.column + step.start, step.stop - step.start
            )
            return []
        if isinstance(step, Concat):
            return self._join(step)
        record = self._common(step)
        if isinstance(step, Map):
            return [record | {"op": finish.MAP, "source": self._value(self._spot(step.source))}]
        return [*self._weigh(step, record), record]

    def _join(self, step: Concat) -> list[dict[str, Any]]:
        whole, records = self._spot(step.result), []
        column = whole.column
        for source in step.sources:
            target = _Spot(whole.home, column, self._widths[source])
            if self._spot(source) != target:
                records.append(self._copy(source, target))
            column += self._widths[source]
        return records

    def _copy(self, source: str, target: _Spot) -> dict[str, Any]:
        return {
            "op": finish.MAP,
            "source": self._value(self._spot(source)),
            "other": -1,
            "out": self._value(target),
            "codes": -1,
            "columns": target.width,
        }

    def _common(self, step: Product | Map) -> dict[str, Any]:
        width = self._widths[step.result]
        record: dict[str, Any] = {
            "out": self._value(self._spot(step.result)),
            "codes": -1,
            "other": -1,
            "columns": width,
            "activation": _ACTIVATIONS[step.activation],
        }
        if step.other:
            record["other"] = self._value(self._spot(step.other))
            record["combine"] = _COMBINATIONS[step.combine]
        if step.bias:
            record["bias"] = self._keep(
                _padded(np.asarray(self._program.tensors[step.bias], np.float32))
            )
        return record

    def _weigh(self, step: Product, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Add weights to the record; return the step that rounds the source, if one is needed."""
        weight = self._program.tensors[step.weight]
        if step.codes is None:
            record["op"] = finish.PRODUCT_F32
            record["inner"] = len(weight)
            record["weight"] = self._keep(pack(weight, 1))
            return self._spread(step.source, record)
        scale = self._program.tensors[f"{step.weight}.scale"] * np.float32(step.codes.scale)
        shift = -step.codes.zero * scale * weight.astype(np.int64).sum(axis=0)
        bias = self._program.tensors[step.bias] if step.bias else np.float32(0)
        record["op"] = finish.PRODUCT_INT8
        record["inner"] = -(-len(weight) // 4)
        record["weight"] = self._keep(pack(weight, 4))
        record["scale"] = self._keep(_padded(scale))
        record["bias"] = self._keep(_padded((bias + shift).astype(np.float32)))
        return self._rounded(step.source, step.codes, record)

    def _spread(self, source: str, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Set a product's source; one per query is first copied to each row, as tiles read rows."""
        spot = self._spot(source)
        record["source"] = self._value(spot)
        if self._scopes[spot.home] != products.PER_QUERY:
            return []
        target = self._buffer(f"rows of {source} for {record['out']}", self._widths[source], 4)
        record["source"] = self._value(target)
        return [self._copy(source, target)]

    def _rounded(self, source: str, codes: Codes, record: dict[str, Any]) -> list[dict[str, Any]]:
        home = f"codes {source} {codes.scale} {codes.zero}"
        known = home in self.buffers
        spot = _Spot(home, 0, self._widths[source], codes=True)
        if not known:
            spot = self._buffer(home, self._widths[source], 1)
        record["source"] = self._value(spot)
        if known:
            return []
        rounding = self._copy(source, spot)
        rounding |= {"out": -1, "codes": self._value(spot)}
        rounding |= {"inverse": 1 / codes.scale, "zero": codes.zero}
        return [rounding]

    def _merged(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let the step that makes a value round it too, and store only what is read."""
        kept: list[dict[str, Any]] = []
        makers: dict[int, dict[str, Any]] = {}
        for record in records:
            maker = makers.get(record["source"])
            rounds = record["out"] < 0
            if rounds and maker and maker["codes"] < 0 and maker["columns"] == record["columns"]:
                maker |= {key: record[key] for key in ("codes", "inverse", "zero")}
                continue
            kept.append(record)
            if record["out"] >= 0:
                makers[record["out"]] = record
        read = {r[key] for r in kept for key in ("source", "other")}
        for record in kept:
            alone = record["out"] >= 0 and record["out"] not in read and record["codes"] >= 0
            if alone and self._is_private(record["out"]):
                record["out"] = -1
        return kept

    def _is_private(self, index: int) -> bool:
        """Tell whether a record's place is a buffer of which nothing else uses a part."""
        home = next(h for h, users in self.users.items() if index in {i for i, _ in users})
        return home in self.buffers and len(self.users[home]) == 1

    def _keep(self, array: NDArray[Any]) -> int:
        """Return the address of an array that lives as long as the layout."""
        room = line_room(array.nbytes)
        room[:] = array.reshape(-1).view(np.uint8)
        self._kept.append(room)
        return int(room.ctypes.data)


def _counted(scopes: Mapping[str, int]) -> str:
    """Return an input that tells the number of rows."""
    for name, scope in scopes.items():
        if scope == products.PER_ROW:
            return name
    raise BundleError("a tower's program needs an input with a row for each row")


def _as_array(records: list[dict[str, Any]]) -> NDArray[np.void]:
    steps = np.zeros(len(records), STEP)
    for place, record in enumerate(records):
        for key, item in record.items():
            steps[place][key] = item
    return steps


def pack(weight: NDArray[Any], group: int) -> NDArray[Any]:
    """Return weights ``[in, out]`` in the order in which tiles read them.

    Columns come in blocks of ``WIDE`` vectors while more than ``WIDE - 1`` are left, then in
    blocks of one; a block holds, for each ``group`` of inner rows, its columns, and for each
    column the group. What is missing is zero.
    """
    inner, columns = weight.shape
    vectors = -(-columns // LANES)
    room = np.zeros((-(-inner // group) * group, vectors * LANES), weight.dtype)
    room[:inner, :columns] = weight
    blocks, start = [], 0
    while start < columns:
        width = LANES * (WIDE if columns - start > (WIDE - 1) * LANES else 1)
        block = room[:, start : start + width].reshape(-1, group, width)
        blocks.append(block.transpose(0, 2, 1).reshape(-1))
        start += width
    return np.concatenate(blocks)


def _padded(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    room = np.zeros(-(-len(vector) // (WIDE * LANES)) * WIDE * LANES, np.float32)
    room[: len(vector)] = vector
    return room
