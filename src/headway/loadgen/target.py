"""What a load generator drives, and the target that costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from headway.core import Query
from headway.measure import Outcome

P = TypeVar("P")


class Target(Protocol[P]):
    """A system that answers queries: ours, a rival's, or none at all."""

    def prepare(self, query: Query) -> P:
        """Return the query in the form it is submitted in; done before the run starts."""
        ...

    def submit(self, prepared: P) -> Awaitable[Outcome]:
        """Send now, and give how it ended once the reply is complete.

        Called in the event loop; must not wait for earlier queries. What it raises counts as
        a failed query.
        """
        ...


class NullTarget:
    """Answers at once: what a run against it shows is the harness's own cost."""

    def prepare(self, query: Query) -> Query:
        """Return the query itself."""
        return query

    def submit(self, prepared: Query) -> Awaitable[Outcome]:  # noqa: ARG002
        """Return a reply that is already there."""
        reply: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        reply.set_result(Outcome.OK)
        return reply
