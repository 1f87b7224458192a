"""The artefact a server loads: written atomically, checked wholly, free of code."""

from headway.bundle.golden import Golden
from headway.bundle.manifest import (
    FORMAT_VERSION,
    Choice,
    DensePrecision,
    FileEntry,
    GuardEntry,
    Lookup,
    Manifest,
    Provenance,
    TableEntry,
    TableFormat,
    TowerEntry,
    Verdict,
)
from headway.bundle.read import Bundle, read_bundle
from headway.bundle.records import pack_table, row_bytes, unpack_rows
from headway.bundle.write import BundleParts, TablePart, TowerPart, write_bundle

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "BundleParts",
    "Choice",
    "DensePrecision",
    "FileEntry",
    "Golden",
    "GuardEntry",
    "Lookup",
    "Manifest",
    "Provenance",
    "TableEntry",
    "TableFormat",
    "TablePart",
    "TowerEntry",
    "TowerPart",
    "Verdict",
    "pack_table",
    "read_bundle",
    "row_bytes",
    "unpack_rows",
    "write_bundle",
]
