"""A program's steps as the records that compiled code runs, with their weights packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bundle import (
    Codes,
    Concat,
    Map,
    Product,
    Program,
    QueryDots,
    QueryProduct,
    Rest,
    Slice,
    Softmax,
    Step,
    Weave,
)
from headway.core import BundleError
from headway.engine import finish, products
from headway.engine.packing import Kept, pack, padded
from headway.engine.products import STEP
from headway.engine.program_places import Places, Spot
from headway.engine.strips import in_strips
from headway.engine.tiles import LANES, TALL

_ACTIVATIONS = {
    "": finish.LINEAR,
    "relu": finish.RELU,
    "sigmoid": finish.SIGMOID,
    "tanh": finish.TANH,
    "prelu": finish.PRELU,
}
_COMBINATIONS = {
    "add": finish.ADD,
    "multiply": finish.MULTIPLY,
    "subtract": finish.SUBTRACT,
    "subtract-from": finish.SUBTRACT_FROM,
}
LEAST_ROWS = 12
_HISTORY_BYTES = 400_000
"""Of a chunk's values over all places of a history, so that they stay in the cache."""
_STRIP_COLUMNS = 768
"""About as many columns of a history are in work at a time: a chunk of them stays in the cache."""
_ROUNDING = (products.MAP, products.PRODUCT, products.PRODUCT_INT8)
Record = dict[str, Any]
Summing = Product | QueryProduct | Map


class Layout:
    """Places for all values, and the records of all steps.

    Attributes:
        places: of the values.
        steps: ``STEP`` records.
        values: ``VALUE`` records whose addresses are filled in per call or per runner.
        counted: the input whose rows are the tower's.
        chunk_rows: most rows of a chunk.
    """

    def __init__(self, program: Program) -> None:
        """Lay the values out and pack the weights.

        Raises:
            BundleError: if the program does not fit together.
        """
        self._program = program
        self.places = Places(program)
        self._kept = Kept()
        self.counted = _counted(self.places)
        records: list[Record] = []
        for steps in in_strips(program):
            records += self._lower(steps[0]) if len(steps) == 1 else self._strips(steps)
        for name, value in program.steps.outputs.items():
            wanted = self.places.output(name, self.places.widths[value])
            if self.places.spot(value).home != wanted.home:
                records.append(self._copy(self.places.spot(value), wanted))
        self.steps = _as_array(self._merged(records))
        self.chunk_rows = self._chunk_rows()
        self.values = self.places.values()

    def _chunk_rows(self) -> int:
        """Return how many rows to take at once: fewer where they hold whole histories."""
        pieces = [
            self.places.row_bytes(step.result)
            for step in self._program.steps.steps
            if isinstance(step, Product) and step.groups > 1
        ]
        fitting = _HISTORY_BYTES // max(1, *pieces, 1)
        return max(LEAST_ROWS, min(products.CHUNK_ROWS, fitting // TALL * TALL))

    def _lower(self, step: Step) -> list[Record]:
        if isinstance(step, Slice | Concat):
            return self._placed(step)
        if isinstance(step, Softmax | Rest | Weave | QueryDots):
            return self._over_rows(step)
        if isinstance(step, QueryProduct):
            before, fed = self._by_rows(step.result, self.places.spot(step.source))
            return [*before, self._by_matrix(step, fed, self.places.spot(step.result), 0)]
        record = self._common(step, self.places.spot(step.result))
        if isinstance(step, Product):
            return self._weighed(step, record)
        source = self.places.number(self.places.spot(step.source))
        return [record | self._extras(step, slice(None)) | {"op": products.MAP, "source": source}]

    def _placed(self, step: Slice | Concat) -> list[Record]:
        """Say where columns lie; what lies elsewhere is copied there."""
        if isinstance(step, Slice):
            whole = self.places.spot(step.source)
            self.places.put(step.result, whole.part(step.start, step.stop))
            return []
        whole, records, column = self.places.spot(step.result), [], 0
        for name in step.sources:
            source = self.places.spot(name)
            target = whole.part(column, column + source.width)
            if source != target:
                records.append(self._copy(source, target))
            column += source.width
        return records

    def _copy(self, source: Spot, target: Spot) -> Record:
        numbers = {"source": self.places.number(source), "out": self.places.number(target)}
        return {"op": products.MAP, "columns": target.width} | numbers

    def _by_rows(self, name: str, source: Spot) -> tuple[list[Record], Spot]:
        """Return where a value is by rows, and the step that copies it there if it is per query."""
        if self.places.scopes[source.home] != products.PER_QUERY:
            return [], source
        target = self.places.buffer(f"rows for {name}", source.width, 4)
        return [self._copy(source, target)], target

    def _over_rows(self, step: Softmax | Rest | Weave | QueryDots) -> list[Record]:
        if isinstance(step, Weave):
            return [self._woven(step)]
        before, source = self._by_rows(step.result, self.places.spot(step.source))
        record = self._copy(source, self.places.spot(step.result))
        if isinstance(step, Softmax):
            return [*before, record | {"op": products.SOFTMAX}]
        if isinstance(step, Rest):
            codes = {"inverse": 1 / step.codes.scale, "zero": step.codes.zero}
            return [*before, record | codes | {"activation": finish.REST}]
        matrix = self.places.number(self.places.spot(step.matrix))
        dots = {"op": products.QUERY_DOTS, "other": matrix, "inner": source.width}
        return [*before, record | dots]

    def _woven(self, step: Weave) -> Record:
        source, target = self.places.spot(step.source), self.places.spot(step.result)
        record = self._copy(source, target)
        weight = self._tensor(step.weight)
        shift = self._tensor(step.shift) if step.shift else np.zeros_like(weight)
        inner, columns = weight.shape
        room = -(-columns // LANES) * LANES
        padding = ((0, 0), (0, room - columns))
        return record | {
            "op": products.WEAVE,
            "groups": source.width // inner,
            "inner": inner,
            "columns": columns,
            "weight": self._kept.address(np.pad(weight, padding)),
            "bias": self._kept.address(np.pad(shift, padding)),
            "weight_bytes": 4 * room,
        }

    def _common(self, step: Summing, target: Spot, start: int = 0) -> Record:
        """Return what follows the sums, for the columns of a step from ``start`` on."""
        record: Record = {
            "out": self.places.number(target),
            "columns": target.width,
            "activation": _ACTIVATIONS[step.activation],
        }
        if step.other:
            other, how = self.places.spot(step.other), _COMBINATIONS[step.combine]
            whole = self.places.widths[step.result]
            single = other.width == 1 and whole > 1
            record["combine"] = how + (finish.ONE_COLUMN if single else 0)
            shared = other.width < whole
            record["same_other"] = shared and not single
            part = other if shared else other.part(start, start + target.width)
            record["other"] = self.places.number(part)
        return record

    def _extras(self, step: Summing, columns: slice, repeat: int = 1) -> Record:
        """Return the addresses of bias and slope for some columns, or of one for many pieces."""
        given = {"bias": step.bias, "slope": step.slope}
        return {
            key: self._kept.address(padded(np.tile(self._tensor(name)[columns], repeat)))
            for key, name in given.items()
            if name
        }

    def _weighed(self, step: Product, record: Record) -> list[Record]:
        """Return the product, and before it the step that readies its source if one is needed."""
        if step.codes is not None:
            return self._by_codes(step, step.codes, record)
        before, source = self._by_rows(step.result, self.places.spot(step.source))
        return [*before, record | self._by_weight(step, source)]

    def _by_weight(self, step: Product, source: Spot, groups: int = 0) -> Record:
        weight, groups = self._tensor(step.weight), groups or step.groups
        inner, columns = weight.shape
        record = {"source": self.places.number(source), "inner": inner, "groups": groups}
        if step.scaled_by:
            return record | self._scaled(step, weight)
        if columns == 1:
            packed = self._kept.address(padded(weight[:, 0]))
            extras = self._extras(step, slice(None), groups)
            return record | extras | {"op": products.DOTS, "columns": 1, "weight": packed}
        record |= self._extras(step, slice(None)) | self._packed(weight, 1)
        return record | {"op": products.PRODUCT, "columns": columns}

    def _scaled(self, step: Product, weight: NDArray[np.float32]) -> Record:
        """Return a product whose packed weights are made for each row from two."""
        shift = self._tensor(step.shift) if step.shift else np.zeros_like(weight)
        packed = pack(weight, 1)
        return self._extras(step, slice(None)) | {
            "op": products.SCALED,
            "columns": weight.shape[1],
            "matrix": self.places.number(self.places.spot(step.scaled_by)),
            "weight": self._kept.address(packed),
            "scale": self._kept.address(pack(shift, 1)),
            "own": self.places.number(
                self.places.buffer(f"weights of {step.result}", packed.size, 4)
            ),
        }

    def _packed(self, weight: NDArray[Any], group: int) -> Record:
        packed = pack(weight, group)
        return {"weight": self._kept.address(packed), "weight_size": packed.nbytes}

    def _by_codes(self, step: Product, codes: Codes, record: Record) -> list[Record]:
        weight = self._program.tensors[step.weight]
        scale = self._tensor(f"{step.weight}.scale") * np.float32(codes.scale)
        shift = -codes.zero * scale * weight.astype(np.int64).sum(axis=0)
        bias = self._tensor(step.bias) if step.bias else np.float32(0)
        record |= self._extras(step, slice(None)) | {
            "op": products.PRODUCT_INT8,
            "inner": -(-len(weight) // 4),
            **self._packed(weight, 4),
            "scale": self._kept.address(padded(scale)),
            "bias": self._kept.address(padded((bias + shift).astype(np.float32))),
        }
        source, known = self.places.spot(step.source), True
        home = f"codes {step.source} {codes.scale} {codes.zero}"
        spot = Spot(home, 0, source.width, codes=True)
        if home not in self.places.buffers:
            spot, known = self.places.buffer(home, source.width, 1), False
        record["source"] = self.places.number(spot)
        if known:
            return [record]
        rounding = self._copy(source, spot)
        rounding |= {"out": -1, "codes": self.places.number(spot)}
        return [rounding | {"inverse": 1 / codes.scale, "zero": codes.zero}, record]

    def _by_matrix(self, step: QueryProduct, source: Spot, target: Spot, start: int) -> Record:
        """Return the product with the columns of the query's matrix from ``start`` on."""
        matrix = self.places.spot(step.matrix)
        own = self.places.scopes[matrix.home] != products.PER_QUERY
        columns = slice(start, start + target.width)
        return (
            self._common(step, target, start)
            | self._extras(step, columns)
            | {
                "op": products.OWN_MATRIX if own else products.PRODUCT,
                "source": self.places.number(source),
                "inner": source.width,
                "matrix": self.places.number(matrix),
                "weight": 4 * start,
                "weight_bytes": 4 * self.places.widths[step.result],
            }
        )

    def _strips(self, steps: Sequence[Step]) -> list[Record]:
        """Return the records of a history's steps, some places at a time."""
        first, rest = steps[0], [s for s in steps[1:] if isinstance(s, Product)]
        assert isinstance(first, QueryProduct)
        inner = [len(self._tensor(step.weight)) for step in rest]
        places, taken = rest[0].groups, LANES * max(1, _STRIP_COLUMNS // (LANES * inner[0]))
        rooms = [
            self.places.buffer(f"strip of {step.source}", taken * width, 4)
            for step, width in zip(rest, inner, strict=True)
        ]
        records, fed = self._by_rows(first.result, self.places.spot(first.source))
        for start in range(0, places, taken):
            stop = min(start + taken, places)
            source = rooms[0].part(0, (stop - start) * inner[0])
            records.append(self._by_matrix(first, fed, source, start * inner[0]))
            for place, step in enumerate(rest):
                columns = self.places.widths[step.result] // places
                target = self.places.spot(step.result).part(start * columns, stop * columns)
                if place + 1 < len(rest):
                    target = rooms[place + 1].part(0, (stop - start) * columns)
                record = self._common(step, target, start * columns)
                records.append(record | self._by_weight(step, source, stop - start))
                source = target
        return records

    def _merged(self, records: list[Record]) -> list[Record]:
        """Let the step that makes a value round it too, and store only what is read."""
        kept: list[Record] = []
        makers: dict[int, Record] = {}
        for record in records:
            maker = makers.get(record["source"])
            if "codes" in record and maker and "codes" not in maker and _rounds(maker, record):
                maker |= {key: record[key] for key in ("codes", "inverse", "zero")}
                continue
            kept.append(record)
            if record["out"] >= 0:
                makers[record["out"]] = record
        read = {r.get(key, -1) for r in kept for key in ("source", "other", "matrix")}
        for record in kept:
            alone = record["out"] >= 0 and record["out"] not in read and "codes" in record
            if alone and self.places.is_private(record["out"]):
                record["out"] = -1
        return kept

    def _tensor(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._program.tensors[name], np.float32)


def _rounds(maker: Record, rounding: Record) -> bool:
    """Tell whether the step that made a value can round it in the same pass."""
    alike = maker["columns"] == rounding["columns"] and maker.get("groups", 1) == 1
    free = maker.get("activation") != finish.REST  # which has codes in use
    return alike and free and rounding["out"] < 0 and maker["op"] in _ROUNDING


def _counted(places: Places) -> str:
    """Return an input that tells the number of rows."""
    for name in places.inputs:
        if places.scopes[name] == products.PER_ROW:
            return name
    raise BundleError("a tower's program needs an input with a row for each row")


def _as_array(records: list[Record]) -> NDArray[np.void]:
    steps = np.zeros(len(records), STEP)
    for key in ("source", "other", "out", "codes", "matrix", "own"):
        steps[key] = -1
    steps["groups"] = 1
    for place, record in enumerate(records):
        for key, item in record.items():
            steps[place][key] = item
    return steps
