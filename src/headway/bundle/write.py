"""Writes a bundle so that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import layout
from headway.bundle.fold import Fold
from headway.bundle.golden import Golden, encode_golden
from headway.bundle.manifest import (
    FORMAT_VERSION,
    Choice,
    DensePrecision,
    EngineName,
    EngineTrial,
    FewRows,
    FileEntry,
    FoldEntry,
    GuardEntry,
    Lookup,
    Manifest,
    ModelName,
    Provenance,
    TableEntry,
    TableFormat,
    TowerEntry,
)
from headway.bundle.read import Bundle, is_bundle, read_bundle
from headway.core import BundleError, Plan, Schema, Table, UsageError

_BLOCK = 16 << 20
_SUFFIXES: dict[EngineName, str] = {
    "onnxruntime": "onnx",
    "openvino": "onnx",
    "headway": "safetensors",
}


@dataclass(frozen=True, slots=True, eq=False)
class TablePart:
    """A table as records: uint8 ``[records, row_bytes]`` from ``pack_table``.

    There are as many as ids, or a fold says which record each id has.
    """

    format: TableFormat
    records: NDArray[np.uint8]
    fold: Fold | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the records and the fold."""
        return self.records.nbytes + (0 if self.fold is None else self.fold.codes.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class FewPart:
    """A dense graph that runs while there are at most ``rows`` rows."""

    content: bytes
    engine: EngineName
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class TowerPart:
    """A dense graph for an engine, with the inputs that ``TowerEntry`` describes."""

    content: bytes
    precision: DensePrecision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookups: tuple[Lookup, ...] = ()
    embedded_width: int = 0
    per_query: bool = False
    engine: EngineName = "onnxruntime"
    few: FewPart | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BundleParts:
    """All that goes into a bundle; vary with ``dataclasses.replace``.

    Attributes:
        name: what the server calls the model.
        tables: one entry for each table of the schema.
        query_tower: None where no work depends on the query alone.
        transforms_json: raw features to ids and values, or None if callers send encoded ones.
        golden: queries with the raw outputs of exactly these parts.
        golden_tolerance: largest absolute difference accepted when they are replayed.
        guard: the verdict on this composition, or None where none was sought.
        profiles: file stem to JSON, stored under ``profiles/``.
        report_html: the report, or None.
    """

    name: str
    schema: Schema
    tables: Mapping[str, TablePart]
    query_tower: TowerPart | None
    candidate_tower: TowerPart
    golden: tuple[Golden, ...]
    golden_tolerance: float
    provenance: Provenance
    transforms_json: bytes | None = None
    plan: Plan = field(default_factory=Plan)
    guard: GuardEntry | None = None
    choices: tuple[Choice, ...] = ()
    engines: tuple[EngineTrial, ...] = ()
    profiles: Mapping[str, bytes] = field(default_factory=dict)
    report_html: str | None = None


def write_bundle(path: str | Path, parts: BundleParts, *, overwrite: bool = False) -> Bundle:
    """Write a bundle, read it back and put it in place.

    Everything is written and synced in a hidden folder beside the target, read back as a
    server would, and only then renamed. A reader finds the old bundle, the new one or, for the
    moment between two renames when overwriting, none; never a mixture. Open memory maps of an
    overwritten bundle stay valid.

    Args:
        path: the folder to create; missing parents are made.
        parts: what to write.
        overwrite: replace a bundle that is there; never any other folder.

    Raises:
        UsageError: if the target exists, or the parts do not fit together.
        BundleError: if the disk refuses, or what was written cannot be read back.
    """
    _check_parts(parts)
    target = Path(path).absolute()
    _check_target(target, overwrite=overwrite)
    work = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_files(work, parts)
        read_bundle(work)
        _put_in_place(work, target, overwrite=overwrite)
    except OSError as error:
        raise BundleError(
            f"the bundle {str(target)!r} could not be written: {error.strerror or error}; "
            "nothing was changed there, mend the cause and write again"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return read_bundle(target)


def replace_plan(path: str | Path, plan: Plan) -> Bundle:
    """Give the bundle at ``path`` another plan; every other file keeps its bytes.

    A hidden folder beside it gets a new manifest and seal, and the other files as hard links
    (as copies where the disk knows no links); it is read back and put in place as by
    ``write_bundle``, so that a reader never finds a mixture. Servers keep the plan they loaded.

    Raises:
        BundleError: if the bundle is off, or the disk refuses; it is then as it was before.
        UsageError: if the folder holds other files too.
    """
    target = Path(path).resolve()
    manifest = read_bundle(target).manifest
    _check_target(target, overwrite=True)
    work = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        _make_folders(work)
        for entry in manifest.files:
            _link(target / entry.path, work / entry.path)
        _write_manifest(work, msgspec.structs.replace(manifest, plan=plan))
        read_bundle(work)
        _put_in_place(work, target, overwrite=True)
    except OSError as error:
        raise BundleError(
            f"the plan of {str(target)!r} could not be written: {error.strerror or error}; "
            "nothing was changed there, mend the cause and try again"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return read_bundle(target)


def _link(source: Path, place: Path) -> None:
    try:
        place.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, place)
        with place.open("rb+") as copy:
            os.fsync(copy.fileno())


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not (target.exists() or target.is_symlink()):
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{str(target)!r} is not a folder; choose another path for the bundle")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{str(target)!r} exists; choose another path or ask to overwrite it")
    if not is_bundle(target):
        raise UsageError(
            f"{str(target)!r} is not a bundle, or holds other files too, and will not be "
            "overwritten; choose another path or remove it"
        )


def _put_in_place(work: Path, target: Path, *, overwrite: bool) -> None:
    # Writing took a while: what stands there now need not be what stood there then.
    _check_target(target, overwrite=overwrite)
    if not target.exists() or not any(target.iterdir()):
        work.rename(target)
    else:
        old = work.with_name(work.name + ".old")
        target.rename(old)
        if not is_bundle(old):  # exchanged between the check and the rename
            old.rename(target)
            raise UsageError(f"{str(target)!r} was changed meanwhile and is left as it is")
        try:
            work.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _check_parts(parts: BundleParts) -> None:
    """Refuse names that no bundle can have, before anything is written.

    Raises:
        UsageError: naming the part.
    """
    try:
        msgspec.convert(parts.name, ModelName)
    except msgspec.ValidationError as error:
        raise UsageError(f"a bundle cannot be named {parts.name!r}: {error}") from error
    places = [(f"table {name!r}", f"{layout.TABLES}/{name}.bin") for name in parts.tables]
    places += [(f"profile {name!r}", f"{layout.PROFILES}/{name}.json") for name in parts.profiles]
    for part, place in places:
        try:
            layout.check_path(place)
        except BundleError as error:
            raise UsageError(
                f"the {part} of a bundle needs a name of letters, digits, '_', '-' and '.'"
            ) from error
    wanted, given = sorted(t.name for t in parts.schema.tables), sorted(parts.tables)
    if wanted != given:
        raise UsageError(f"the schema has the tables {wanted}, the parts have {given}")


def _write_files(work: Path, parts: BundleParts) -> None:
    _make_folders(work)
    files: list[FileEntry] = []
    tables = tuple(
        _write_table(work, parts.schema.table(name), part, files)
        for name, part in parts.tables.items()
    )
    query_tower = None
    if parts.query_tower is not None:
        query_tower = _write_tower(work, "query", parts.query_tower, files)
    candidate_tower = _write_tower(work, "candidate", parts.candidate_tower, files)
    contents = {layout.GOLDEN: encode_golden(parts.golden, parts.schema)}
    if parts.transforms_json is not None:
        contents[layout.TRANSFORMS] = parts.transforms_json
    if parts.report_html is not None:
        contents[layout.REPORT] = parts.report_html.encode()
    for name, profile in parts.profiles.items():
        contents[f"{layout.PROFILES}/{name}.json"] = profile
    files.extend(_write_file(work, name, data) for name, data in contents.items())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=parts.name,
        schema=parts.schema,
        tables=tables,
        query_tower=query_tower,
        candidate_tower=candidate_tower,
        has_transforms=parts.transforms_json is not None,
        golden_tolerance=parts.golden_tolerance,
        plan=parts.plan,
        provenance=parts.provenance,
        files=tuple(files),
        guard=parts.guard,
        choices=parts.choices,
        engines=parts.engines,
    )
    _write_manifest(work, manifest)


def _make_folders(work: Path) -> None:
    for folder in (layout.TABLES, layout.TOWERS, layout.PROFILES):
        (work / folder).mkdir(parents=True)


def _write_manifest(work: Path, manifest: Manifest) -> None:
    """Write manifest and seal, and sync all folders: the last to be written."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    entry = _write_file(work, layout.MANIFEST, encoded)
    _write_file(work, layout.SEAL, layout.seal_of(entry.sha256))
    for folder in (layout.TABLES, layout.TOWERS, layout.PROFILES, "."):
        _sync(work / folder)


def _write_table(work: Path, table: Table, part: TablePart, files: list[FileEntry]) -> TableEntry:
    name = table.name
    if part.records.ndim != 2 or part.records.dtype != np.uint8:
        raise UsageError(f"table {name!r} must be records from pack_table, uint8 [rows, bytes]")
    rows, length = part.records.shape
    entry = _write_file(work, f"{layout.TABLES}/{name}.bin", np.ascontiguousarray(part.records))
    files.append(entry)
    fold = None
    if part.fold is not None:
        codes = np.ascontiguousarray(part.fold.codes)
        own = _write_file(work, f"{layout.TABLES}/{name}.fold", codes.view(np.uint8))
        files.append(own)
        size = cast("Literal[0, 1, 2, 4]", part.fold.code_bytes)
        fold = FoldEntry(path=own.path, hot=part.fold.hot, code_bytes=size)
    return TableEntry(
        name=name,
        path=entry.path,
        format=part.format,
        rows=rows,
        dim=table.dim,
        row_bytes=length,
        fold=fold,
    )


def _write_tower(work: Path, name: str, part: TowerPart, files: list[FileEntry]) -> TowerEntry:
    place = f"{layout.TOWERS}/{name}"
    entry = _write_file(work, f"{place}.{_SUFFIXES[part.engine]}", part.content)
    files.append(entry)
    few = None
    if part.few is not None:
        own = _write_file(work, f"{place}-few.{_SUFFIXES[part.few.engine]}", part.few.content)
        files.append(own)
        few = FewRows(path=own.path, engine=part.few.engine, rows=part.few.rows)
    return TowerEntry(
        path=entry.path,
        engine=part.engine,
        few=few,
        precision=part.precision,
        inputs=part.inputs,
        outputs=part.outputs,
        lookups=part.lookups,
        embedded_width=part.embedded_width,
        per_query=part.per_query,
    )


def _write_file(work: Path, name: str, data: bytes | NDArray[np.uint8]) -> FileEntry:
    if name not in {layout.MANIFEST, layout.SEAL}:
        layout.check_path(name)
    view = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).data
    digest = hashlib.sha256()
    with (work / name).open("xb") as file:
        for start in range(0, len(view), _BLOCK):
            digest.update(view[start : start + _BLOCK])
            file.write(view[start : start + _BLOCK])
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(path=name, size=len(view), sha256=digest.hexdigest())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
