"""The policy of the paper: one split size, and a size from which accelerators take over."""

from __future__ import annotations

import pytest
from tests.scheduler.crew import CORE, Crew

from headway.core import Plan
from headway.scheduler import Accepted

OFFLOAD = Plan(workers=2, split_size=50, accelerators=1, offload_candidates=100)


@pytest.mark.parametrize(("size", "worker", "chunks"), [(99, 0, 2), (100, -1, 1), (900, -1, 1)])
def test_from_the_threshold_on_queries_go_whole_to_the_accelerator(
    size: int, worker: int, chunks: int
) -> None:
    crew = Crew(OFFLOAD, CORE, CORE)
    assert crew.submit(size) == Accepted(chunks)
    assert crew.works[0].worker == worker
    assert sum(w.candidates for w in crew.works) == size


def test_an_accelerator_takes_one_query_at_a_time() -> None:
    crew = Crew(Plan(workers=1, batch_candidates=4_000, accelerators=1, offload_candidates=100))
    crew.times *= 2
    for _ in range(4):
        crew.submit(100)
    crew.run()
    assert [(w.worker, len(w.chunks)) for w in crew.works] == [(-1, 1)] * 4


def test_cores_never_take_what_the_threshold_gave_the_accelerator() -> None:
    crew = Crew(OFFLOAD, CORE, CORE)
    for size in (500, 500, 500, 20):
        crew.submit(size)
    crew.run()
    assert [w.candidates for w in crew.works if w.worker >= 0] == [20]


def test_without_a_threshold_accelerators_get_nothing() -> None:
    crew = Crew(Plan(workers=1, accelerators=1), CORE, CORE)
    for _ in range(3):
        crew.submit(900)
    crew.run()
    assert {w.worker for w in crew.works} == {0}
