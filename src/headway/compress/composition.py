"""The ways in which one lowered model can be put together, each ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway.bundle import (
    DensePrecision,
    EngineTrial,
    TableChoice,
    TableFormat,
    TablePart,
    TowerPart,
)
from headway.compress.mixed import mix_tables
from headway.compress.quantize_tables import as_records, quantize_tables
from headway.compress.settings import OptimizeSettings
from headway.compress.swap import Swap
from headway.compress.towers import as_tower, build_towers
from headway.core import Schema
from headway.data import Dataset
from headway.engine import CompiledModel
from headway.graph import Lowered

_MIXED: tuple[TableFormat, TableFormat] = ("int8", "int4")


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """Tables in one format, or a mix, with towers of one precision.

    Attributes:
        tables: format of the tables; a table too narrow to gain by it is float32.
        dense: precision of the towers.
        model: built, as a server would build it.
        table_parts: what goes into a bundle, likewise the towers.
        engines: what could have run each tower, and how long it took.
        dense_us: time of the candidate tower alone, as a mean over row counts.
        variant: name of the smaller model it is made from; empty for the original.
    """

    tables: TableChoice
    dense: DensePrecision
    model: CompiledModel
    table_parts: Mapping[str, TablePart]
    query_tower: TowerPart | None
    candidate_tower: TowerPart
    engines: tuple[EngineTrial, ...]
    dense_us: float
    variant: str = ""

    @property
    def name(self) -> str:
        """What people call it."""
        tables = "int4/int8" if self.tables == "int4-mixed" else self.tables
        model = f"{self.variant}, " if self.variant else ""
        return f"{model}tables {tables}, dense {self.dense}"

    @property
    def unrounded(self) -> bool:
        """Whether nothing was rounded, so that it equals its module but for float32 noise."""
        return self.tables == "f32" and self.dense == "f32"

    @property
    def exact(self) -> bool:
        """Whether it equals the original model but for float32 noise."""
        return self.unrounded and not self.variant

    @property
    def steady(self) -> bool:
        """Whether a row's output is the same whatever rows share its batch."""
        return self.dense != "int8-dynamic"

    @property
    def size_bytes(self) -> int:
        """Bytes of tables and towers."""
        towers = [t for t in (self.query_tower, self.candidate_tower) if t is not None]
        tables = sum(part.size_bytes for part in self.table_parts.values())
        return tables + sum(len(tower.content) for tower in towers)


def build_compositions(
    lowered: Lowered, schema: Schema, settings: OptimizeSettings, calibration: Dataset
) -> list[Composition]:
    """Return all compositions of the settings, f32 throughout first.

    int8 towers are left out where no product of the model is wide enough to gain by them, mixed
    tables where they come out as those of another format that is tried.

    Args:
        lowered: the model without torch.
        schema: of the model.
        settings: which formats and precisions.
        calibration: rows that activations take their ranges from, and on which tables are mixed;
            none that judge.
    """
    parts = _tables(lowered, schema, settings, calibration)
    records = {
        choice: {name: table.resident() for name, table in as_records(tables, schema).items()}
        for choice, tables in parts.items()
    }
    towers = build_towers(lowered, records["f32"], settings, calibration)
    return [
        Composition(
            tables=table_format,
            dense=precision,
            model=CompiledModel(
                schema,
                records[table_format],
                None if both.query is None else as_tower(both.query),
                as_tower(both.candidate),
            ),
            table_parts=parts[table_format],
            query_tower=both.query,
            candidate_tower=both.candidate,
            engines=both.engines,
            dense_us=both.cost_us,
        )
        for table_format in parts
        for precision, both in towers.items()
        if _wanted(table_format, precision, settings)
    ]


def _tables(
    lowered: Lowered, schema: Schema, settings: OptimizeSettings, calibration: Dataset
) -> dict[TableChoice, dict[str, TablePart]]:
    """Return the tables in each of the settings' formats, f32 first."""
    asked = settings.tables if lowered.tables else ()
    formats: Sequence[TableFormat] = ["f32", *(f for f in asked if f != "int4-mixed")]
    parts: dict[TableChoice, dict[str, TablePart]] = {
        f: quantize_tables(lowered.tables, f, lowered.folds) for f in dict.fromkeys(formats)
    }
    if "int4-mixed" in asked:
        fine, coarse = (
            parts.get(f) or quantize_tables(lowered.tables, f, lowered.folds) for f in _MIXED
        )
        swap = Swap(lowered, as_records(parts["f32"], schema), calibration)
        mixed = mix_tables(fine, coarse, swap, settings.error_limit)
        if all(_formats(mixed) != _formats(other) for other in parts.values()):
            parts["int4-mixed"] = mixed
    return parts


def _formats(parts: Mapping[str, TablePart]) -> list[TableFormat]:
    return [part.format for part in parts.values()]


def _wanted(tables: TableChoice, dense: DensePrecision, settings: OptimizeSettings) -> bool:
    if tables == dense == "f32":
        return True
    return tables in settings.tables and dense in settings.dense
