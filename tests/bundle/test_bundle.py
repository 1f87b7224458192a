"""What is written is read back; what was touched is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.bundle import Bundle, BundleParts, TablePart, read_bundle, write, write_bundle
from headway.bundle.golden import decode_golden
from headway.core import BundleError, QueryError, Ragged, Schema, UsageError


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as someone would who can also compute hashes."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    data = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and make every hash agree."""
    (folder / name).write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        entry = next(e for e in manifest["files"] if e["path"] == name)
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    reseal(folder, change)


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_what_was_written_is_what_is_read(parts: BundleParts, written: Path) -> None:
    bundle = read_bundle(written)
    assert bundle.manifest.schema == parts.schema
    assert bundle.manifest.plan == parts.plan
    assert bundle.manifest.golden_tolerance == parts.golden_tolerance
    assert bundle.manifest.query_tower is not None
    assert bundle.tower_bytes(bundle.manifest.query_tower) == b"query graph"
    assert bundle.tower_bytes(bundle.manifest.candidate_tower) == b"candidate graph"
    assert bundle.transforms_json == parts.transforms_json
    assert dict(bundle.profiles) == dict(parts.profiles)
    for name, table in parts.tables.items():
        np.testing.assert_array_equal(bundle.table(name), table.records)
        assert bundle.table_entry(name).format == table.format
        assert not bundle.table(name).flags.writeable
        assert isinstance(bundle.table(name), np.memmap)
    assert bundle.total_bytes == sum(p.stat().st_size for p in files_of(written))


def test_golden_queries_come_back_whole(parts: BundleParts, written: Path) -> None:
    golden = read_bundle(written).golden
    assert len(golden) == len(parts.golden)
    for (query, outputs), (query_before, outputs_before) in zip(golden, parts.golden, strict=True):
        np.testing.assert_array_equal(outputs, outputs_before)
        assert query.size == query_before.size
        for name, column in {**query.context, **query.candidates}.items():
            before = {**query_before.context, **query_before.candidates}[name]
            if isinstance(column, Ragged):
                assert isinstance(before, Ragged)
                np.testing.assert_array_equal(column.values, before.values)
                np.testing.assert_array_equal(column.offsets, before.offsets)
            else:
                np.testing.assert_array_equal(column, before)


def test_a_bundle_without_the_optional_parts_is_a_bundle(
    tmp_path: Path, parts: BundleParts
) -> None:
    candidate = replace(parts.candidate_tower, inputs=("embedded",))
    bare = replace(
        parts,
        query_tower=None,
        candidate_tower=candidate,
        transforms_json=None,
        profiles={},
        report_html=None,
    )
    bundle = write_bundle(tmp_path / "deep" / "bare", bare)
    assert bundle.transforms_json is None
    assert bundle.manifest.query_tower is None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_refused(written: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(written)))
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        with pytest.raises(BundleError):
            read_bundle(written)
    finally:
        path.write_bytes(before)
    read_bundle(written)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_or_lengthened_file_is_refused(written: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(written)))
    before = path.read_bytes()
    cut = data.draw(st.integers(0, len(before) - 1))
    path.write_bytes(data.draw(st.sampled_from([before[:cut], before + b"\0"])))
    try:
        with pytest.raises(BundleError):
            read_bundle(written)
    finally:
        path.write_bytes(before)


def test_a_missing_file_is_named(written: Path) -> None:
    for path in files_of(written):
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=path.name):
            read_bundle(written)
        path.write_bytes(kept)


def test_an_extra_file_is_refused_and_a_hidden_one_ignored(written: Path) -> None:
    (written / ".DS_Store").write_bytes(b"x")
    read_bundle(written)
    (written / "tables" / "more.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"tables/more\.bin"):
        read_bundle(written)


@pytest.mark.parametrize("name", ["tables/item.bin", "manifest.json", "golden.safetensors"])
def test_links_and_devices_are_refused_unopened(written: Path, tmp_path: Path, name: str) -> None:
    path = written / name
    moved = path.rename(tmp_path / "moved")
    path.symlink_to(moved)
    with pytest.raises(BundleError, match="not a plain file"):
        read_bundle(written)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a plain file"):
        read_bundle(written)


def test_a_linked_folder_inside_is_refused(written: Path, tmp_path: Path) -> None:
    moved = (written / "tables").rename(tmp_path / "elsewhere")
    (written / "tables").symlink_to(moved)
    with pytest.raises(BundleError, match="'tables' is not a plain file"):
        read_bundle(written)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "tables/../../x", "towers/a/b", "x.bin", "tables/", "", "a\0b"],
)
def test_a_path_that_leaves_its_place_is_refused(written: Path, path: str) -> None:
    reseal(written, lambda m: m["files"][0].update(path=path))
    with pytest.raises(BundleError, match="no place inside a bundle"):
        read_bundle(written)


def _set(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format_version", value=4), "update Headway"),
        (_set("format_version", value=2), "format 2 is not format 3"),
        (_set("format_version", value=0), "format 0"),
        (_set("surprise", value=1), "unknown field"),
        (_set("tables", 0, "surprise", value=1), "unknown field"),
        (_set("name", value="../up"), "name"),
        (_set("tables", 0, "rows", value=51), "51 x 4"),
        (_set("tables", 0, "row_bytes", value=13), "13 bytes"),
        (_set("tables", 0, "format", value="f32"), "12 bytes"),
        (_set("tables", 0, "name", value="shop"), "stores the tables"),
        (_set("tables", 0, "path", value="tables/shop.bin"), "list of files"),
        (_set("candidate_tower", "path", value="report.html"), "list of files"),
        (_set("candidate_tower", "lookups", 0, "start", value=-1), "outside 7 columns"),
        (_set("candidate_tower", "lookups", 1, "start", value=5), "outside 7 columns"),
        (_set("candidate_tower", "lookups", 0, "width", value=9), "9 wide"),
        (_set("candidate_tower", "lookups", 0, "table", value="shop"), "no lookup"),
        (_set("candidate_tower", "lookups", 0, "feature", value="age"), "no lookup"),
        (_set("candidate_tower", "inputs", value=["exec"]), "unknown input"),
        (_set("query_tower", "inputs", value=["dense.item"]), "not of a dense"),
        (_set("query_tower", "inputs", value=["mask.liked"]), "not of a sequence"),
        (_set("golden_tolerance", value=0.0), "tolerance"),
        (_set("has_transforms", value=False), "list of files"),
        (_set("files", value=[]), "list of files"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    written: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    reseal(written, change)
    with pytest.raises(BundleError, match=message):
        read_bundle(written)


def test_a_file_listed_twice_is_refused(written: Path) -> None:
    reseal(written, lambda m: m["files"].append(m["files"][0]))
    with pytest.raises(BundleError, match="twice"):
        read_bundle(written)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff\xfe", b'{"format_version":', b"[" * 100_000]
)
def test_a_manifest_that_is_no_manifest_is_refused(written: Path, data: bytes) -> None:
    (written / "manifest.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (written / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(written)


def test_an_oversized_manifest_is_refused_unread(written: Path) -> None:
    os.truncate(written / "manifest.json", 17 << 20)
    with pytest.raises(BundleError, match="the limit is"):
        read_bundle(written)


def test_oversized_transforms_are_refused_unread(written: Path) -> None:
    size = (1 << 30) + 1
    os.truncate(written / "transforms.json", size)
    reseal(
        written,
        lambda m: next(e for e in m["files"] if e["path"] == "transforms.json").update(size=size),
    )
    with pytest.raises(BundleError, match="the limit is"):
        read_bundle(written)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_forged_golden_queries_never_crash_the_reader(
    written: Path, schema: Schema, data: st.DataObject
) -> None:
    before = bytearray((written / "golden.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        before[data.draw(st.integers(0, len(before) - 1))] = data.draw(st.integers(0, 255))
    try:
        golden = decode_golden(bytes(before), schema)
    except BundleError:
        return
    assert all(np.isfinite(outputs).all() for _, outputs in golden)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}", b"junk" * 9])
def test_forged_safetensors_are_refused(written: Path, data: bytes) -> None:
    forge(written, "golden.safetensors", data)
    with pytest.raises(BundleError, match="golden"):
        read_bundle(written)


def test_an_existing_bundle_is_kept_unless_told(written: Path, parts: BundleParts) -> None:
    other = replace(parts, name="other")
    with pytest.raises(UsageError, match="exists"):
        write_bundle(written, other)
    assert read_bundle(written).manifest.name == "small"
    mapped = read_bundle(written).table("item")
    assert write_bundle(written, other, overwrite=True).manifest.name == "other"
    np.testing.assert_array_equal(mapped, parts.tables["item"].records)
    assert [p.name for p in written.parent.iterdir()] == [written.name]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_overwriting_touches_nothing_but_bundles(
    tmp_path: Path, parts: BundleParts, written: Path, kind: str
) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    elif kind == "file":
        target.write_text("years of work")
    else:
        target.symlink_to(written)
    with pytest.raises(UsageError):
        write_bundle(target, parts, overwrite=True)
    assert target.exists()


def _foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "a web application"}')
    (folder / "years.txt").write_text("of work")


def test_a_folder_with_some_other_manifest_is_no_bundle(tmp_path: Path, parts: BundleParts) -> None:
    _foreign(tmp_path / "app")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(tmp_path / "app", parts, overwrite=True)
    assert (tmp_path / "app" / "years.txt").read_text() == "of work"


@pytest.mark.parametrize("name", ["notes.txt", ".git", "tables/.kept"])
def test_a_bundle_with_other_files_in_it_is_not_overwritten(
    written: Path, parts: BundleParts, name: str
) -> None:
    (written / name).write_text("of work")
    with pytest.raises(UsageError, match="holds other files"):
        write_bundle(written, parts, overwrite=True)
    assert (written / name).read_text() == "of work"


def test_a_damaged_bundle_may_be_overwritten(written: Path, parts: BundleParts) -> None:
    (written / "tables" / "item.bin").write_bytes(b"cut off")
    write_bundle(written, parts, overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_came_to_stand_there_meanwhile_is_kept(
    tmp_path: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch, *, overwrite: bool
) -> None:
    target = tmp_path / "bundle"

    def read_late(path: Path) -> Bundle:
        _foreign(target)
        return read_bundle(path)

    monkeypatch.setattr(write, "read_bundle", read_late)
    with pytest.raises(UsageError):
        write_bundle(target, parts, overwrite=overwrite)
    assert (target / "years.txt").read_text() == "of work"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../up"}, r"named '\.\./up'"),
        ({"profiles": {"a/b": b"{}"}}, "profile 'a/b'"),
        ({"tables": {}}, "the schema has the tables"),
    ],
)
def test_a_bad_name_is_refused_by_the_part_it_is_of(
    tmp_path: Path, parts: BundleParts, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_bundle(tmp_path / "bundle", replace(parts, **change))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path, parts: BundleParts) -> None:
    (tmp_path / "new").mkdir()
    write_bundle(tmp_path / "new", parts)


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write_bundle(tmp_path / "bundle", parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda p: replace(p, name="a/b"), UsageError),
        (lambda p: replace(p, golden=()), UsageError),
        (lambda p: replace(p, golden=((p.golden[0][0], np.zeros((9, 1), "f4")),)), UsageError),
        (lambda p: replace(p, golden=((p.golden[0][0], p.golden[0][1] * np.nan),)), UsageError),
        (lambda p: replace(p, tables={}), UsageError),
        (
            lambda p: replace(p, tables={**p.tables, "shop": TablePart("f32", np.zeros(3, "u1"))}),
            UsageError,
        ),
        (lambda p: replace(p, profiles={"../x": b"{}"}), UsageError),
        (lambda p: replace(p, golden_tolerance=float("nan")), BundleError),
        (
            lambda p: replace(
                p, golden=((replace(p.golden[0][0], size=4), np.zeros((4, 1), "f4")),)
            ),
            QueryError,
        ),
    ],
)
def test_parts_that_do_not_fit_are_never_published(
    tmp_path: Path,
    parts: BundleParts,
    change: Callable[[BundleParts], BundleParts],
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        write_bundle(tmp_path / "bundle", change(parts))
    assert list(tmp_path.iterdir()) == []


def test_no_bundle_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        read_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_bundle(tmp_path)


def test_reading_loads_no_tensor_library(written: Path) -> None:
    code = (
        "import sys; from headway.bundle import read_bundle; read_bundle(sys.argv[1]);"
        "assert not {'torch', 'onnx', 'pickle5'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(written)], check=True)
