"""A bundle of the tiny ranker on disk, written once for the room's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contracts import tiny_ranker

from headway.bundle import BundleParts, write_bundle


@pytest.fixture(scope="session")
def parts() -> BundleParts:
    return tiny_ranker.bundle_parts()


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory, parts: BundleParts) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(path, parts)
    return path
