"""What rounding each part of a model alone does to its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headway.compress.calibrate import calibrate
from headway.compress.quantize import products_of, quantize_dense
from headway.compress.quantize_tables import as_records, quantize_tables
from headway.compress.swap import Swap, exact_model, graphs_of
from headway.core import Scope
from headway.data import Dataset
from headway.graph import Lowered

_FORMATS: tuple[Literal["int8", "int4"], ...] = ("int8", "int4")


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much outputs change when one part is rounded and all others are float32.

    Attributes:
        part: a table, or the wide products that take one value of a tower.
        scope: of the tower; None for a table.
        name: of the table, or of the value that the products take.
        precision: what the part was rounded to.
        error: root mean square change of the raw outputs as a share of their spread, for the task
            that it is largest for.
        numbers: values of the table, or weights of the products.
    """

    part: Literal["table", "product"]
    scope: Scope | None
    name: str
    precision: Literal["int8", "int4"]
    error: float
    numbers: int


def sensitivity(lowered: Lowered, rows: Dataset) -> tuple[Sensitivity, ...]:
    """Return what each table in int8 and in int4, and each wide product in int8, changes alone.

    Worst first. Products of fewer than 16 inputs or outputs are always float32, so they are left
    out, and so are tables that would be no smaller; products that take the same value are rounded
    together.

    Args:
        lowered: the model without torch.
        rows: some thousands of impressions; they give activations their ranges, too.

    Raises:
        UsageError: naming a table that holds NaN or infinity.
    """
    tables = as_records(quantize_tables(lowered.tables, "f32", lowered.folds), rows.schema)
    swap = Swap(lowered, tables, rows)
    found = [*_tables(lowered, swap), *_products(lowered, swap)]
    return tuple(sorted(found, key=lambda one: -one.error))


def _tables(lowered: Lowered, swap: Swap) -> list[Sensitivity]:
    found = []
    for table_format in _FORMATS:
        parts = quantize_tables(lowered.tables, table_format, lowered.folds)
        for name, records in as_records(parts, swap.rows.schema).items():
            if records.format == table_format:
                error, numbers = swap.change({name: records}), lowered.tables[name].size
                found.append(Sensitivity("table", None, name, table_format, error, numbers))
    return found


def _products(lowered: Lowered, swap: Swap) -> list[Sensitivity]:
    graphs = {scope: graph.onnx for scope, graph in graphs_of(lowered).items()}
    watched = exact_model(lowered, swap.rows.schema, swap.tables)
    ranges = calibrate(watched, graphs, swap.rows).ranges
    found = []
    for scope, graph in graphs.items():
        for name, numbers in products_of(graph).items():
            rounded = quantize_dense(graph, ranges[scope], {name})
            error = swap.change(towers={scope: rounded})
            found.append(Sensitivity("product", scope, name, "int8", error, numbers))
    return found
