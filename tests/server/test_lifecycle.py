"""The server as a process: how it starts, what it loads, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.server.harness import (
    INFER,
    SCHEMA,
    Client,
    LinearRunner,
    Probe,
    infer_body,
    linear_model,
)

from headway.core import Piece, Plan, UsageError
from headway.server import BackgroundServer, ServedModel, ServerSettings, run_server
from headway.server.settings import Priority

ROOT = Path(__file__).parents[2]

SERVE = """
import sys
from headway.core import Plan
from headway.server import ServerSettings, run_server
from tests.server.harness import linear_model

run_server(
    [linear_model(plan=Plan(workers=2))],
    ServerSettings(port=0),
    lambda url: print(url, flush=True),
)
print("torch" in sys.modules, flush=True)
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_well_and_it_never_loaded_torch(sign: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        client = Client(process.stdout.readline().strip())
        idle = client.connect()
        assert client.get("/v2/health/ready").status == 200
        assert client.post(INFER, infer_body()).status == 200
        process.send_signal(sign)
        out, err = process.communicate(timeout=30)
        idle.close()
    assert process.returncode == 0, err
    assert out.strip() == "False"
    assert err == ""


def test_after_a_stop_the_port_is_free_again() -> None:
    with BackgroundServer([linear_model()], ServerSettings(port=0)) as server:
        port = Client(server.url).port
    with BackgroundServer([linear_model()], ServerSettings(port=port)) as again:
        assert Client(again.url).port == port


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
            BackgroundServer([linear_model()], ServerSettings(port=port))


def test_an_address_that_others_reach_needs_a_word() -> None:
    with pytest.raises(UsageError, match="allow_remote"):
        ServerSettings(host="0.0.0.0")
    assert ServerSettings(host="0.0.0.0", allow_remote=True).host == "0.0.0.0"
    for host in ("127.0.0.1", "::1", "localhost"):
        assert ServerSettings(host=host).host == host


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "ä", "x" * 129, "a\n"])
def test_a_model_name_that_breaks_urls_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="model name"):
        ServedModel(name, SCHEMA, Plan(), lambda: LinearRunner(Probe()))


def test_models_need_names_of_their_own() -> None:
    for models in ([], [linear_model(), linear_model()]):
        with pytest.raises(UsageError, match="names of their own"):
            run_server(models, ServerSettings(port=0))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs Linux")
@pytest.mark.parametrize(
    ("priority", "kind"),
    [("normal", "SCHED_OTHER"), ("batch", "SCHED_BATCH"), ("idle", "SCHED_IDLE")],
)
def test_threads_that_score_have_the_priority_asked_for_and_others_keep_theirs(
    priority: Priority, kind: str
) -> None:
    seen: list[int] = []

    class Runner(LinearRunner):
        def candidates(self, pieces: Sequence[Piece]) -> None:
            seen.append(os.sched_getscheduler(0))
            super().candidates(pieces)

    model = ServedModel("m", SCHEMA, Plan(), lambda: Runner(Probe()))
    with BackgroundServer([model], ServerSettings(port=0, worker_priority=priority)) as server:
        assert Client(server.url).post("/v2/models/m/infer", infer_body()).status == 200
    assert seen
    assert set(seen) == {getattr(os, kind)}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def cores_of_workers(workers: int, *, pin: bool) -> dict[str, set[int]]:
    """Return where the threads that score may run, by their names."""
    seen: dict[str, set[int]] = {}

    class Runner(LinearRunner):
        def candidates(self, pieces: Sequence[Piece]) -> None:
            seen[threading.current_thread().name] = os.sched_getaffinity(0)
            super().candidates(pieces)

    model = ServedModel("m", SCHEMA, Plan(workers=workers, split_size=2), lambda: Runner(Probe()))
    with BackgroundServer([model], ServerSettings(port=0, pin_workers=pin)) as server:
        client = Client(server.url)
        for _ in range(10_000):
            assert client.post("/v2/models/m/infer", infer_body(40)).status == 200
            if len(seen) == workers:
                return seen
    pytest.fail(f"only {sorted(seen)} of {workers} workers scored")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_each_worker_stays_on_a_core_of_its_own_if_there_is_one_for_every_core() -> None:
    usable = os.sched_getaffinity(0)
    seen = cores_of_workers(len(usable), pin=True)
    assert sorted(c for cores in seen.values() for c in cores) == sorted(usable)
    assert os.sched_getaffinity(0) == usable, "others move as before"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
@pytest.mark.parametrize(("more", "pin"), [(0, False), (1, True)])
def test_workers_move_where_that_is_asked_for_or_there_are_not_as_many_as_cores(
    more: int, pin: bool
) -> None:
    usable = os.sched_getaffinity(0)
    seen = cores_of_workers(len(usable) + more, pin=pin)
    assert all(cores == usable for cores in seen.values())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_change_of_plan_gives_each_worker_its_core_or_sets_it_free() -> None:
    usable = os.sched_getaffinity(0)

    def places(workers: int) -> list[set[int]]:
        threads = [t for t in threading.enumerate() if re.fullmatch(r"linear-\d+", t.name)]
        found = []
        for thread in threads:
            if int(thread.name.removeprefix("linear-")) >= workers:
                thread.join(5)  # it leaves
            elif thread.native_id is not None:
                found.append(os.sched_getaffinity(thread.native_id))
        return found

    settings = ServerSettings(port=0, allow_management=True)
    with BackgroundServer([linear_model(plan=Plan())], settings) as server:
        client = Client(server.url)
        for workers in (len(usable), len(usable) + 1, len(usable)):
            assert client.post("/v2/models/linear/plan", {"workers": workers}).status == 200
            found = places(workers)
            if workers == len(usable):
                assert sorted(map(sorted, found)) == [[core] for core in sorted(usable)]
            else:
                assert found == [usable] * workers


def test_the_switch_interval_is_given_back() -> None:
    before = sys.getswitchinterval()
    stop = threading.Event()
    seen: list[float] = []

    def on_ready(url: str) -> None:
        seen.append(sys.getswitchinterval())
        stop.set()
        signal.raise_signal(signal.SIGTERM)

    run_server([linear_model()], ServerSettings(port=0, switch_interval_us=700), on_ready)
    assert stop.is_set()
    assert seen == [pytest.approx(700e-6)]
    assert sys.getswitchinterval() == before
