"""Reads a bundle, refusing it when anything is off; runs nothing that stands in it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import layout
from headway.bundle.fold import CODE_TYPES, Fold
from headway.bundle.golden import REWRITE, Golden, decode_golden
from headway.bundle.manifest import (
    FORMAT_VERSION,
    FewRows,
    FileEntry,
    FoldEntry,
    Manifest,
    TableEntry,
    TowerEntry,
)
from headway.core import BundleError, Schema, UsageError

_BLOCK = 16 << 20


class _Version(msgspec.Struct):
    format_version: int


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle whose every byte was checked; tables are read-only memory maps.

    Attributes:
        path: the folder it was read from.
        manifest: what stands in it.
        golden: queries with their raw outputs, float32 ``[size, tasks]``.
        transforms_json: the transforms of raw features, or None.
        profiles: stem to JSON bytes of what lies under ``profiles/``.
        total_bytes: size of all files.
    """

    path: Path
    manifest: Manifest
    golden: tuple[Golden, ...]
    transforms_json: bytes | None
    profiles: Mapping[str, bytes]
    total_bytes: int
    _tables: Mapping[str, NDArray[np.uint8]]
    _towers: Mapping[str, bytes]
    _folds: Mapping[str, Fold]

    def table(self, name: str) -> NDArray[np.uint8]:
        """Return a table's records, uint8 ``[records, row_bytes]``, mapped read-only.

        Raises:
            UsageError: if there is no such table.
        """
        if name not in self._tables:
            raise UsageError(f"no table {name!r}; the bundle has {sorted(self._tables)}")
        return self._tables[name]

    def fold(self, name: str) -> Fold | None:
        """Return which record each id of a table has, mapped read-only; None if its own."""
        return self._folds.get(name)

    def table_entry(self, name: str) -> TableEntry:
        """Return how a table is stored.

        Raises:
            UsageError: if there is no such table.
        """
        for entry in self.manifest.tables:
            if entry.name == name:
                return entry
        raise UsageError(f"no table {name!r}; the bundle has {sorted(self._tables)}")

    def tower_bytes(self, tower: TowerEntry | FewRows) -> bytes:
        """Return a tower of the manifest, the very bytes whose hash was checked."""
        return self._towers[tower.path]


def read_bundle(path: str | Path) -> Bundle:
    """Return the bundle at ``path`` after checking all of it.

    Checked are the seal of the manifest, its format and fields, that exactly the listed files
    are there as plain files, their sizes and SHA-256, that tables and towers agree with the
    schema, and that the golden queries fit it. Files whose names start with a dot are ignored.
    Golden rows are not replayed here, since that takes an engine.

    Raises:
        BundleError: naming what is off and what to do about it.
    """
    root = Path(path).absolute()
    try:
        return _read(root)
    except OSError as error:
        raise BundleError(
            f"the bundle {str(root)!r} cannot be read: {error.strerror or error}"
        ) from error
    except BundleError as error:
        raise BundleError(f"bundle {str(root)!r}: {error}") from error


def is_bundle(path: Path) -> bool:
    """Return whether all that stands in a folder is a bundle's, so that it may be replaced.

    Manifest and seal agree, and beside them lie only plain files in a bundle's own places. The
    bundle may be damaged or of another version: it needs replacing all the more.
    """
    try:
        if path.is_symlink() or not path.is_dir() or any(_hidden(path)):
            return False
        found = _inventory(path)
        for name in set(found) - {layout.MANIFEST, layout.SEAL}:
            layout.check_path(name)
        _sealed_manifest(path, found)
    except (BundleError, OSError):
        return False
    return True


def _hidden(root: Path) -> Iterator[Path]:
    """Yield what readers overlook but deleting would not, save what file browsers leave."""
    return (p for p in root.rglob("*") if p.name.startswith(".") and p.name != ".DS_Store")


def _read(root: Path) -> Bundle:
    if not root.is_dir():
        word = "that is no folder" if root.exists() else "there is no such folder"
        raise BundleError(f"{word}; give that of a bundle")
    found = _inventory(root)
    manifest, manifest_size = _read_manifest(root, found)
    layout.check_manifest(manifest)
    entries = {entry.path: entry for entry in manifest.files}
    _check_inventory(found, entries)
    tables = {entry.name: _map_table(root, entry, entries) for entry in manifest.tables}
    folds = {
        table.name: _map_fold(root, table, table.fold, manifest.schema, entries)
        for table in manifest.tables
        if table.fold is not None
    }
    small = {
        name: _read_file(root, entry)
        for name, entry in entries.items()
        if not name.startswith(f"{layout.TABLES}/")
    }
    return Bundle(
        path=root,
        manifest=manifest,
        golden=decode_golden(small[layout.GOLDEN], manifest.schema),
        transforms_json=small.get(layout.TRANSFORMS),
        profiles={
            Path(name).stem: data
            for name, data in small.items()
            if name.startswith(f"{layout.PROFILES}/")
        },
        total_bytes=sum(e.size for e in manifest.files) + manifest_size,
        _tables=tables,
        _towers={n: data for n, data in small.items() if n.startswith(f"{layout.TOWERS}/")},
        _folds=folds,
    )


def _inventory(root: Path) -> dict[str, int]:
    """Return path inside the bundle and size of every plain file, refusing anything else."""
    found: dict[str, int] = {}
    for entry in root.rglob("*"):
        name = entry.relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        info = entry.lstat()
        if stat.S_ISDIR(info.st_mode):
            continue
        if not stat.S_ISREG(info.st_mode):
            raise BundleError(
                f"{name!r} is not a plain file; a bundle holds no links or devices, {REWRITE}"
            )
        found[name] = info.st_size
    return found


def _sealed_manifest(root: Path, found: Mapping[str, int]) -> tuple[bytes, bytes]:
    """Return the bytes of manifest and seal, which agree."""
    for name in (layout.MANIFEST, layout.SEAL):
        if name not in found:
            raise BundleError(f"{name!r} is missing, so this is no complete bundle; {REWRITE}")
        if found[name] > layout.MANIFEST_LIMIT:
            raise BundleError(
                f"{name!r} has {found[name]} bytes, the limit is {layout.MANIFEST_LIMIT}"
            )
    data, seal = (root / layout.MANIFEST).read_bytes(), (root / layout.SEAL).read_bytes()
    if seal != layout.seal_of(hashlib.sha256(data).hexdigest()):
        raise BundleError(f"{layout.MANIFEST!r} does not match {layout.SEAL!r}; {REWRITE}")
    return data, seal


def _read_manifest(root: Path, found: Mapping[str, int]) -> tuple[Manifest, int]:
    data, seal = _sealed_manifest(root, found)
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise BundleError(
                f"it has format {version}, this version of Headway reads {FORMAT_VERSION}; "
                "update Headway"
            )
        return msgspec.json.decode(data, type=Manifest), len(data) + len(seal)
    except (msgspec.MsgspecError, UsageError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"{layout.MANIFEST!r} cannot be read: {error}; {REWRITE}") from error


def _check_inventory(found: Mapping[str, int], entries: Mapping[str, FileEntry]) -> None:
    present = set(found) - {layout.MANIFEST, layout.SEAL}
    if missing := sorted(set(entries) - present):
        raise BundleError(f"the file {missing[0]!r} is missing; {REWRITE}")
    if extra := sorted(present - set(entries)):
        raise BundleError(f"the file {extra[0]!r} is not in the manifest; remove it or {REWRITE}")
    for name, entry in entries.items():
        if found[name] != entry.size:
            raise BundleError(
                f"the file {name!r} has {found[name]} bytes, not {entry.size}: it was cut off "
                f"or changed; {REWRITE}"
            )
        limit = layout.size_limit(name)
        if limit is not None and entry.size > limit:
            raise BundleError(f"the file {name!r} has {entry.size} bytes, the limit is {limit}")


def _map_table(
    root: Path, table: TableEntry, entries: Mapping[str, FileEntry]
) -> NDArray[np.uint8]:
    mapped = np.memmap(root / table.path, np.uint8, "r", shape=(table.rows, table.row_bytes))
    _check_hash(entries[table.path], mapped.reshape(-1).data)
    return mapped


def _map_fold(
    root: Path, table: TableEntry, entry: FoldEntry, schema: Schema, files: Mapping[str, FileEntry]
) -> Fold:
    ids = schema.table(table.name).rows
    codes: NDArray[Any] = np.zeros(0, np.uint8)
    if files[entry.path].size:  # an empty file cannot be mapped
        kind = np.dtype(CODE_TYPES[entry.code_bytes])
        codes = np.memmap(root / entry.path, kind, "r", shape=(ids - entry.hot,))
    _check_hash(files[entry.path], codes.view(np.uint8).data)
    fold = Fold(ids, entry.hot, codes)
    try:
        fold.check(ids, table.rows)
    except UsageError as error:
        raise BundleError(f"table {table.name!r}: {error}; {REWRITE}") from error
    return fold


def _read_file(root: Path, entry: FileEntry) -> bytes:
    data = (root / entry.path).read_bytes()
    _check_hash(entry, memoryview(data))
    return data


def _check_hash(entry: FileEntry, data: memoryview) -> None:
    digest = hashlib.sha256()
    for start in range(0, len(data), _BLOCK):
        digest.update(data[start : start + _BLOCK])
    if digest.hexdigest() != entry.sha256:
        raise BundleError(f"the file {entry.path!r} was changed: wrong SHA-256; {REWRITE}")
