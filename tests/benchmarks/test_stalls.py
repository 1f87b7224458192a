"""What the host keeps of the cores is counted by processes that nothing here can delay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from benchmarks.stalls import Stalls, stalls, stolen_s


@pytest.fixture
def watched() -> Stalls:
    try:
        return Stalls([min(os.sched_getaffinity(0))])
    except (AttributeError, PermissionError) as error:
        pytest.skip(f"real-time priority is not to be had: {error}")


def test_what_the_system_counts_is_known_or_taken_for_nothing() -> None:
    assert stolen_s() >= 0


def test_stalls_are_known_with_or_without_watchers() -> None:
    first = stalls()()
    assert 0 <= first <= stalls()()


def test_a_busy_core_is_not_a_stalled_one(watched: Stalls) -> None:
    core = min(os.sched_getaffinity(0))
    spin = (
        f"import os, time; os.sched_setaffinity(0, [{core}]); end = time.monotonic() + 1\n"
        "while time.monotonic() < end: pass"
    )
    before, stolen = watched(), stolen_s()
    subprocess.run([sys.executable, "-c", spin], check=True, timeout=60)
    # A watcher of usual priority would wait for its turn for half of that second.
    assert watched() - before < 0.3 + 2 * (stolen_s() - stolen)


def test_a_stopped_watcher_counts_as_a_stalled_core(watched: Stalls) -> None:
    (watcher,) = watched._watchers
    before = watched()
    watcher.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, watcher.pid, os.WSTOPPED | os.WNOWAIT)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.2)"], check=True)
    watcher.send_signal(signal.SIGCONT)
    while watched() - before < 0.2:
        assert watcher.poll() is None


def test_watchers_end_with_what_they_were_made_for() -> None:
    try:
        watched = Stalls([min(os.sched_getaffinity(0))])
    except (AttributeError, PermissionError) as error:
        pytest.skip(f"real-time priority is not to be had: {error}")
    (watcher,) = watched._watchers
    del watched
    assert watcher.wait(10) != 0


def test_a_core_that_is_not_there_is_refused() -> None:
    with pytest.raises(PermissionError, match="ulimit -r"):
        Stalls([4096])
