from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.bundle import BundleParts, Fold, TablePart, pack_table, read_bundle, write_bundle
from headway.core import BundleError, UsageError

PLACES = np.concatenate([np.arange(12), np.arange(38) % 5 + 9]).astype(np.int64)


def folded(parts: BundleParts, fold: Fold, records: int = 14) -> BundleParts:
    values = np.random.default_rng(1).normal(size=(records, 4)).astype(np.float32)
    item = TablePart("int8", pack_table(values, "int8"), fold)
    return replace(parts, tables={**parts.tables, "item": item})


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and seal it again."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    edit(manifest)
    data = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(data)
    seal = f"{hashlib.sha256(data).hexdigest()}  manifest.json\n"
    (path / "manifest.sha256").write_text(seal)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(0, 40))
def test_a_fold_gives_every_id_its_place(drawn: list[int], own: int) -> None:
    places = np.concatenate([np.arange(own), drawn]).astype(np.int64)
    fold = Fold.of(places)
    assert fold.ids == len(places)
    assert np.array_equal(fold.records(np.arange(len(places))), places)
    fold.check(len(places), int(places.max()) + 1)
    with pytest.raises(UsageError, match=f"leads to record {places.max()}"):
        fold.check(len(places), int(places.max()))


@pytest.mark.parametrize(("shared", "size"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_ids_with_records_of_their_own_cost_nothing_and_others_few_bytes(
    shared: int, size: int
) -> None:
    places = np.append(np.arange(100_000 + shared), 100_000)
    fold = Fold.of(places)
    assert fold.hot == 100_000
    assert fold.codes.itemsize == size
    alone = Fold.of(np.minimum(np.arange(900), 20))
    assert (alone.hot, alone.code_bytes) == (20, 0), "one shared record needs no map"


@pytest.mark.parametrize("wrong", [[], [0, -1], [2**32], [[0]]])
def test_what_is_no_map_is_refused(wrong: list[Any]) -> None:
    with pytest.raises(UsageError, match="one record number"):
        Fold.of(np.array(wrong, np.int64))


def test_a_folded_table_comes_back_mapped_and_smaller(tmp_path: Path, parts: BundleParts) -> None:
    plain = write_bundle(tmp_path / "plain", parts)
    bundle = write_bundle(tmp_path / "folded", folded(parts, Fold.of(PLACES)))
    fold = bundle.fold("item")
    assert fold is not None
    assert isinstance(fold.codes, np.memmap)
    assert np.array_equal(fold.records(np.arange(50)), PLACES)
    assert bundle.fold("shop") is None
    assert bundle.table("item").shape == (14, 12)
    assert bundle.table_entry("item").rows == 14
    assert plain.manifest.schema == bundle.manifest.schema, "clients send the same ids"
    assert bundle.total_bytes < plain.total_bytes + 200  # what the manifest says of it


def test_a_fold_of_ids_that_all_have_their_own_is_read(tmp_path: Path, parts: BundleParts) -> None:
    whole = folded(parts, Fold.of(np.arange(50)), records=50)
    fold = write_bundle(tmp_path / "b", whole).fold("item")
    assert fold is not None
    assert fold.hot == 50


@pytest.mark.parametrize(
    ("places", "records", "message"),
    [
        (PLACES[:49], 14, "the fold of table 'item' has 40 bytes, not 41"),
        (PLACES, 13, "table 'item': its fold leads to record 13, it has only 13"),
        (np.arange(51) % 9, 9, "the fold of table 'item' has 51 bytes, not 50"),
        (np.arange(50), 51, "'item' is stored as 51 x 4, the schema says 50 x 4"),
    ],
)
def test_a_fold_that_does_not_fit_is_refused(
    tmp_path: Path, parts: BundleParts, places: Any, records: int, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "bundle", folded(parts, Fold.of(places), records))
    assert not (tmp_path / "bundle").exists()


def test_ids_that_share_one_record_need_no_map(tmp_path: Path, parts: BundleParts) -> None:
    path = write_bundle(tmp_path / "b", folded(parts, Fold.of(np.zeros(50, np.int64)), 1)).path
    fold = read_bundle(path).fold("item")
    assert fold is not None
    assert fold.records(np.array([0, 49])).tolist() == [0, 0]
    assert (path / "tables" / "item.fold").stat().st_size == 0
    edited(path, lambda m: m["tables"][0]["fold"].update(hot=2))
    with pytest.raises(BundleError, match="fold of table 'item'"):
        read_bundle(path)


def test_a_changed_fold_is_refused(tmp_path: Path, parts: BundleParts) -> None:
    path = write_bundle(tmp_path / "bundle", folded(parts, Fold.of(PLACES))).path
    file = path / "tables" / "item.fold"
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(BundleError, match=r"item\.fold.*wrong SHA-256"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("field", "value"), [("hot", 8), ("hot", 51), ("hot", -1), ("code_bytes", 3), ("code_bytes", 4)]
)
def test_a_manifest_that_lies_about_a_fold_is_refused(
    tmp_path: Path, parts: BundleParts, field: str, value: int
) -> None:
    path = write_bundle(tmp_path / "bundle", folded(parts, Fold.of(PLACES))).path
    edited(path, lambda m: m["tables"][0]["fold"].update({field: value}))
    with pytest.raises(BundleError, match=r"fold|manifest"):
        read_bundle(path)
