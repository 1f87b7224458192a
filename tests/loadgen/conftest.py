"""The server that tests fire at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.loadgen.local_server import LocalServer


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """A server that scores."""
    local = LocalServer()
    yield local
    local.close()
