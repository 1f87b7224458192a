"""A bundle is served only if it reproduces what was recorded when it was made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tests.contracts import tiny_ranker

from headway.bundle import BundleParts, TablePart, pack_table, read_bundle, write_bundle
from headway.core import BundleError
from headway.engine import load, load_model, raw_outputs


@pytest.mark.parametrize("tables", ["copy", "map"])
def test_loaded_runner_scores_like_the_model(
    bundle_path: Path, tables: Literal["copy", "map"]
) -> None:
    loaded = load_model(bundle_path, tables=tables)
    query = tiny_ranker.draw(np.random.default_rng(1), 30)
    (found,) = raw_outputs(loaded.runner(), [query], tiny_ranker.TASKS)
    np.testing.assert_allclose(found, tiny_ranker.expected(query), rtol=1e-4, atol=1e-5)
    assert loaded.manifest.name == "tiny"
    assert loaded.transforms_json is None


def test_bundle_already_read_is_taken(bundle_path: Path) -> None:
    bundle = read_bundle(bundle_path)
    assert load_model(bundle).bundle is bundle


def test_map_keeps_tables_on_disk_and_copy_brings_them_in(bundle_path: Path) -> None:
    for placement, mapped in (("map", True), ("copy", False)):
        loaded = load_model(bundle_path, tables=placement)  # type: ignore[arg-type]
        for table in loaded.model.tables.values():
            assert isinstance(table.records, np.memmap) == mapped
            assert table.records.ctypes.data % 64 == 0


def test_int8_tables_stay_near_the_f32_scores(tmp_path: Path, parts: BundleParts) -> None:
    packed = {
        name: TablePart("int8", pack_table(table.records.view(np.float32), "int8"))
        for name, table in parts.tables.items()
    }
    write_bundle(tmp_path / "b", replace(parts, tables=packed, golden_tolerance=0.5))
    query = tiny_ranker.draw(np.random.default_rng(2), 40)
    (found,) = raw_outputs(load_model(tmp_path / "b").runner(), [query], tiny_ranker.TASKS)
    exact = tiny_ranker.expected(query)
    assert np.abs(found - exact).max() < 0.1 * exact.std()
    assert np.abs(found - exact).max() > 0


def test_bundle_whose_outputs_moved_is_refused(tmp_path: Path, parts: BundleParts) -> None:
    query, outputs = parts.golden[2]
    moved = outputs.copy()
    moved[3, 1] += 1e-3
    write_bundle(tmp_path / "b", replace(parts, golden=(parts.golden[0], (query, moved))))
    with pytest.raises(BundleError, match=r"golden query 1 .* differs by 0\.001"):
        load_model(tmp_path / "b")


def test_bundle_that_gives_nan_is_refused(tmp_path: Path, parts: BundleParts) -> None:
    records = parts.tables["users"].records.copy()
    records.view(np.float32)[:] = np.nan
    broken = replace(parts, tables={**parts.tables, "users": TablePart("f32", records)})
    write_bundle(tmp_path / "b", broken)
    with pytest.raises(BundleError, match="differs by nan"):
        load_model(tmp_path / "b")


def test_tower_that_is_no_graph_is_refused_by_name(tmp_path: Path, parts: BundleParts) -> None:
    broken = replace(parts.candidate_tower, content=b"not a graph")
    write_bundle(tmp_path / "b", replace(parts, candidate_tower=broken))
    with pytest.raises(BundleError, match="cannot load the candidate tower"):
        load_model(tmp_path / "b")


def test_tower_with_other_inputs_than_declared_is_refused(
    tmp_path: Path, parts: BundleParts
) -> None:
    inputs = tuple(name for name in parts.candidate_tower.inputs if name != "hidden.1")
    broken = replace(parts.candidate_tower, inputs=inputs)
    write_bundle(tmp_path / "b", replace(parts, candidate_tower=broken))
    with pytest.raises(BundleError, match="has inputs"):
        load_model(tmp_path / "b")


def test_missing_bundle_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_a_fresh_process_scores_without_torch_or_onnx(bundle_path: Path) -> None:
    code = (
        "import sys; from headway.engine import load_model; "
        f"load_model({str(bundle_path)!r}); "
        "print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (b"{}x", "cannot be read"),
        (b'{"features":{},"encoders":{}}', "make the features"),
    ],
)
def test_transforms_that_could_not_serve_are_refused_at_load(
    tmp_path: Path, parts: BundleParts, transforms: bytes, message: str
) -> None:
    write_bundle(tmp_path / "b", replace(parts, transforms_json=transforms))
    with pytest.raises(BundleError, match=message):
        load_model(tmp_path / "b")
