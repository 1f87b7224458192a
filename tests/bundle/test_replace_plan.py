"""A bundle gets another plan, and nothing else about it changes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from headway.bundle import BundleParts, read_bundle, replace_plan, write, write_bundle
from headway.core import BundleError, Ns, Plan, UsageError

TUNED = Plan(
    workers=3,
    policy="adaptive",
    split_size=384,
    target_ns=Ns(12_500_000),
    service=((1, 50_000), (256, 900_000)),
)


@pytest.fixture
def written(tmp_path: Path, parts: BundleParts) -> Path:
    return write_bundle(tmp_path / "small", parts).path


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_only_the_plan_is_another(written: Path) -> None:
    old, old_files = read_bundle(written).manifest, contents(written)
    found = replace_plan(written, TUNED)
    assert found.manifest == msgspec.structs.replace(old, plan=TUNED)
    assert read_bundle(written).manifest == found.manifest
    new_files = contents(written)
    assert new_files.keys() == old_files.keys()
    changed = {name for name in new_files if new_files[name] != old_files[name]}
    assert changed == {"manifest.json", "manifest.sha256"}
    assert [p.name for p in written.parent.iterdir()] == ["small"], "nothing is left beside it"


def test_the_plan_may_be_replaced_again_and_back(written: Path) -> None:
    before = contents(written)
    plan = read_bundle(written).manifest.plan
    replace_plan(written, TUNED)
    replace_plan(written, plan)
    assert contents(written) == before


def test_open_tables_stay_valid(written: Path) -> None:
    table = read_bundle(written).table("item")
    before = np.array(table)
    replace_plan(written, TUNED)
    np.testing.assert_array_equal(table, before)


def test_where_the_disk_knows_no_links_files_are_copied(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, target: Path) -> None:
        raise OSError(f"no links from {self} to {target}")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    before = contents(written)
    assert replace_plan(written, TUNED).manifest.plan == TUNED
    assert contents(written)["tables/item.bin"] == before["tables/item.bin"]


def test_a_refusing_disk_leaves_the_bundle_as_it_was(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(written)
    monkeypatch.setattr(write, "_write_manifest", full)
    with pytest.raises(BundleError, match="No space left"):
        replace_plan(written, TUNED)
    assert contents(written) == before
    assert [p.name for p in written.parent.iterdir()] == ["small"]


def test_a_damaged_bundle_gets_no_plan(written: Path) -> None:
    (written / "tables" / "shop.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"shop\.bin"):
        replace_plan(written, TUNED)


def test_a_folder_with_hidden_files_is_left_alone(written: Path) -> None:
    (written / ".notes").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        replace_plan(written, TUNED)
    assert (written / ".notes").read_text() == "mine"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        replace_plan(tmp_path / "nowhere", TUNED)
