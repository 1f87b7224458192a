"""The server decides as its scheduler does: a run's calls, made again, give the same answers."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import pytest
from tests.server.harness import INFER, PLAN, Client, infer_body, linear_model

from headway.core import Ns, Plan
from headway.scheduler import Accepted, Admission, Arrival, Completion, Scheduler, Work
from headway.server import BackgroundServer, ServerSettings, executor

T = TypeVar("T")


class Recording(Scheduler):
    """A scheduler that writes down what it was asked and what it answered."""

    made: list[Recording]

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.first = plan
        self.trace: list[tuple[str, tuple[Any, ...], Any]] = []
        self.made.append(self)

    def submit(self, arrival: Arrival, now: Ns) -> Admission:
        return self._keep("submit", super().submit(arrival, now), arrival, now)

    def next_work(self, worker: int, now: Ns) -> Work | None:
        return self._keep("next_work", super().next_work(worker, now), worker, now)

    def finished(self, work: Work, now: Ns, failed: Collection[int] = ()) -> tuple[Completion, ...]:
        return self._keep("finished", super().finished(work, now, failed), work, now, failed)

    def expire(self, now: Ns) -> tuple[Completion, ...]:
        return self._keep("expire", super().expire(now), now)

    def cancel(self, query: int, now: Ns) -> Completion | None:
        return self._keep("cancel", super().cancel(query, now), query, now)

    def replan(self, plan: Plan) -> None:
        super().replan(plan)
        self._keep("replan", None, plan)

    def _keep(self, name: str, answer: T, *given: Any) -> T:
        self.trace.append((name, given, answer))
        return answer


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
def test_a_recorded_run_replays_to_the_same_decisions(
    monkeypatch: pytest.MonkeyPatch, policy: Literal["fixed", "adaptive"]
) -> None:
    monkeypatch.setattr(Recording, "made", [], raising=False)
    monkeypatch.setattr(executor, "Scheduler", Recording)
    plan = Plan(
        workers=2,
        split_size=9,
        batch_candidates=20,
        policy=policy,
        queue_candidates=60,
        service=((1, 20_000), (1000, 1_000_000)),
    )
    settings = ServerSettings(port=0, allow_management=True)
    with BackgroundServer([linear_model(plan=plan)], settings) as server:
        client = Client(server.url)
        with ThreadPoolExecutor(8) as pool:

            def ask(n: int) -> int:
                timeout = {"parameters": {"timeout": 1 if n % 17 == 0 else 0}}
                return client.post(INFER, {**infer_body(n % 23 + 1), **timeout}).status

            statuses = list(pool.map(ask, range(150)))
            assert client.post(PLAN, {"workers": 3, "split_size": 4}).status == 200
            statuses += pool.map(ask, range(150))
    assert set(statuses) <= {200, 503, 504}
    (recorded,) = Recording.made
    again = Scheduler(recorded.first)
    for name, given, answer in recorded.trace:
        assert getattr(again, name)(*given) == answer
    works = [a for name, _, a in recorded.trace if name == "next_work" and a is not None]
    taken = [a for name, _, a in recorded.trace if name == "submit" and isinstance(a, Accepted)]
    assert len(works) >= len(taken) / 8 > 0
    assert [name for name, _, _ in recorded.trace].count("replan") == 1
