"""The artefact a server loads: written atomically, checked wholly, free of code."""

from headway.bundle.golden import Golden
from headway.bundle.manifest import (
    FORMAT_VERSION,
    Choice,
    DensePrecision,
    EngineTrial,
    FileEntry,
    GuardEntry,
    Lookup,
    Manifest,
    Provenance,
    TableEntry,
    TableFormat,
    TowerEntry,
    TowerForm,
    Verdict,
)
from headway.bundle.program import Codes, Concat, Map, Product, Program, Slice, Step, Steps
from headway.bundle.read import Bundle, read_bundle
from headway.bundle.records import pack_table, row_bytes, unpack_rows
from headway.bundle.write import BundleParts, TablePart, TowerPart, write_bundle

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "BundleParts",
    "Choice",
    "Codes",
    "Concat",
    "DensePrecision",
    "EngineTrial",
    "FileEntry",
    "Golden",
    "GuardEntry",
    "Lookup",
    "Manifest",
    "Map",
    "Product",
    "Program",
    "Provenance",
    "Slice",
    "Step",
    "Steps",
    "TableEntry",
    "TableFormat",
    "TablePart",
    "TowerEntry",
    "TowerForm",
    "TowerPart",
    "Verdict",
    "pack_table",
    "read_bundle",
    "row_bytes",
    "unpack_rows",
    "write_bundle",
]
