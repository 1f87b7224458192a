"""Servers on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.server.harness import Client, Probe, Serve, linear_model

from headway.core import Plan
from headway.server import BackgroundServer, ServedModel, ServerSettings


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = ServerSettings(port=0, max_body_bytes=100_000, max_candidates=1000)
    with BackgroundServer([linear_model(plan=Plan(workers=2))], settings) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url)


@pytest.fixture
def held() -> Iterator[Probe]:
    """A probe whose runners wait at the gate; opened at the end at the latest."""
    probe = Probe()
    probe.gate.clear()
    yield probe
    probe.gate.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that stop when the test ends."""
    running: list[BackgroundServer] = []

    def start(
        model: ServedModel, settings: ServerSettings | None = None
    ) -> tuple[Client, BackgroundServer]:
        server = BackgroundServer([model], settings or ServerSettings(port=0))
        running.append(server)
        return Client(server.start()), server

    yield start
    for server in running:
        server.stop()
