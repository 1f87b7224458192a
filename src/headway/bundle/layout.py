"""Where things stand inside a bundle, how large they may be, and what a manifest must agree on."""

from __future__ import annotations

import re

from headway.bundle.manifest import FoldEntry, Lookup, Manifest, TableEntry, TowerEntry
from headway.bundle.records import row_bytes
from headway.core import BundleError, Dense, Schema, Sequence, UsageError

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
TRANSFORMS = "transforms.json"
GOLDEN = "golden.safetensors"
REPORT = "report.html"
TABLES, TOWERS, PROFILES = "tables", "towers", "profiles"

MANIFEST_LIMIT = 16 << 20
_LIMITS = {TRANSFORMS: 1 << 30, GOLDEN: 256 << 20, REPORT: 256 << 20}
_FOLDER_LIMITS = {TOWERS: 2 << 30, PROFILES: 16 << 20}
_PATH = re.compile(r"(?:(tables|towers|profiles)/)?([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_TOWER_INPUT = re.compile(r"embedded|row_to_query|hidden\.\d+|(?:sequence|mask|dense)\.\w+")


def seal_of(digest: str) -> bytes:
    """Return the content of the seal, in the form ``sha256sum --check`` reads."""
    return f"{digest}  {MANIFEST}\n".encode()


def check_path(path: str) -> None:
    """Accept a path that can only name a file of a bundle.

    Raises:
        BundleError: if it is absolute, climbs out, or names another place than a bundle's.
    """
    match = _PATH.fullmatch(path)
    if match is None or (match[1] is None and path not in {TRANSFORMS, GOLDEN, REPORT}):
        raise BundleError(
            f"the manifest names the file {path!r}, which is no place inside a bundle; "
            "do not use this bundle"
        )


def size_limit(path: str) -> int | None:
    """Return the largest size in bytes that is read, or None where tables set their own."""
    return _LIMITS.get(path, _FOLDER_LIMITS.get(path.split("/", maxsplit=1)[0]))


def check_manifest(manifest: Manifest) -> None:
    """Accept a manifest whose parts agree with each other.

    Raises:
        BundleError: naming the first entry that contradicts another.
    """
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        check_path(path)
    if len(set(paths)) != len(paths):
        raise BundleError("the manifest lists a file twice; write the bundle again")
    used = [table.path for table in manifest.tables] + [GOLDEN]
    used += [table.fold.path for table in manifest.tables if table.fold]
    for tower in (manifest.query_tower, manifest.candidate_tower):
        used += [tower.path] if tower else []
        used += [tower.few.path] if tower and tower.few else []
    used += [TRANSFORMS] if manifest.has_transforms else []
    rest = {p for p in paths if p == REPORT or p.startswith(f"{PROFILES}/")}
    if len(set(used)) != len(used) or set(used) != set(paths) - rest:
        odd = sorted(set(used) ^ (set(paths) - rest)) or used
        raise BundleError(f"the manifest's entries and its list of files differ at {odd[0]!r}")
    if not 0 < manifest.golden_tolerance < 1e6:
        raise BundleError(f"a golden tolerance of {manifest.golden_tolerance} means nothing")
    try:
        _check_tables(manifest)
        _check_tower(manifest.candidate_tower, manifest.schema)
        if manifest.query_tower is not None:
            _check_tower(manifest.query_tower, manifest.schema)
    except UsageError as error:
        raise BundleError(f"the manifest contradicts its schema: {error}") from error


def _check_tables(manifest: Manifest) -> None:
    names = [table.name for table in manifest.tables]
    if sorted(names) != sorted(table.name for table in manifest.schema.tables):
        raise UsageError(f"it stores the tables {sorted(names)}")
    sizes = {entry.path: entry.size for entry in manifest.files}
    for table in manifest.tables:
        _check_table(table, manifest.schema, sizes[table.path])
        if table.fold is not None:
            _check_fold(table, table.fold, manifest.schema, sizes[table.fold.path])


def _check_table(table: TableEntry, schema: Schema, size: int) -> None:
    declared = schema.table(table.name)
    folded = table.fold is not None and table.rows <= declared.rows
    if table.dim != declared.dim or not (folded or table.rows == declared.rows):
        raise UsageError(
            f"table {table.name!r} is stored as {table.rows} x {table.dim}, "
            f"the schema says {declared.rows} x {declared.dim}"
        )
    if table.row_bytes != row_bytes(table.dim, table.format):
        raise UsageError(f"table {table.name!r} has records of {table.row_bytes} bytes")
    if size != table.rows * table.row_bytes:
        raise UsageError(
            f"table {table.name!r} has {size} bytes, not {table.rows * table.row_bytes}"
        )
    if not table.path.startswith(f"{TABLES}/"):
        raise UsageError(f"table {table.name!r} lies at {table.path!r}")


def _check_fold(table: TableEntry, fold: FoldEntry, schema: Schema, size: int) -> None:
    """Accept the fold as far as the manifest tells; ``read_bundle`` checks what is in it."""
    wanted = (schema.table(table.name).rows - fold.hot) * fold.code_bytes
    if size != wanted or wanted < 0 or fold.hot > table.rows:
        raise UsageError(
            f"the fold of table {table.name!r} has {size} bytes, not {wanted}: a code for each "
            "id that has no record of its own"
        )
    if not fold.path.startswith(f"{TABLES}/"):
        raise UsageError(f"the fold of table {table.name!r} lies at {fold.path!r}")


def _check_tower(tower: TowerEntry, schema: Schema) -> None:
    for path in (tower.path, *([tower.few.path] if tower.few else [])):
        if not path.startswith(f"{TOWERS}/"):
            raise UsageError(f"a tower lies at {path!r}")
    for name in tower.inputs:
        if not _TOWER_INPUT.fullmatch(name):
            raise UsageError(f"tower {tower.path!r} has the unknown input {name!r}")
        kind, _, feature = name.partition(".")
        if kind in {"sequence", "mask"} and not isinstance(schema.feature(feature), Sequence):
            raise UsageError(f"tower input {name!r} is not of a sequence feature")
        if kind == "dense" and not isinstance(schema.feature(feature), Dense):
            raise UsageError(f"tower input {name!r} is not of a dense feature")
    for lookup in tower.lookups:
        _check_lookup(lookup, tower, schema)


def _check_lookup(lookup: Lookup, tower: TowerEntry, schema: Schema) -> None:
    feature = schema.feature(lookup.feature)
    if isinstance(feature, Dense | Sequence) or feature.table != lookup.table:
        raise UsageError(f"{lookup.feature!r} is no lookup into the table {lookup.table!r}")
    if lookup.width != schema.table(lookup.table).dim:
        raise UsageError(f"the lookup of {lookup.feature!r} is {lookup.width} wide")
    if lookup.start < 0 or lookup.start + lookup.width > tower.embedded_width:
        raise UsageError(
            f"the lookup of {lookup.feature!r} starts at {lookup.start}, outside "
            f"{tower.embedded_width} columns"
        )
