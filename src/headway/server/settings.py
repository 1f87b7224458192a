"""What a server may be told, and what it is given to serve."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from headway.bundle import Manifest
from headway.core import Plan, Query, Runner, Schema, Scope, UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
VERSION = "1"
"""The version under which a model is served where none is given."""


Priority = Literal["normal", "batch", "idle"]


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen and what to refuse.

    Attributes:
        host: address to listen on.
        port: 0 takes any free port; the one taken is reported.
        allow_remote: must be set to listen on an address that other machines reach, because
            there is no authentication.
        allow_management: offer the calls that change how a model is served, to this machine only.
        max_workers: a plan that is changed while serving may have so many at most.
        max_body_bytes: larger request bodies are refused.
        max_json_bytes: of a body, so much may be JSON, which takes longer to read than tensors.
        max_bytes_in_flight: with more bytes of bodies than this not yet answered, more are refused.
        max_candidates: larger queries are refused.
        max_timeout_s: a client's timeout is cut to this.
        max_connections: with more than these open, requests are refused.
        max_head_bytes: requests with a longer line and headers are refused.
        head_timeout_s: a connection on which no request begins, or one begins and its headers
            do not end, is closed after this time.
        body_timeout_s: a client that takes longer to send a body is given up, at the latest
            after twice this time.
        drain_s: how long accepted work may go on after a signal to stop.
        switch_interval_us: how long one thread may keep Python to itself.
        worker_priority: of the worker threads, on Linux: ``normal``; ``batch``, which never
            displaces a thread that just woke up; or ``idle``, which gives way to any other
            thread at once, so that replies and new requests wait for no chunk, and also to any
            other process, which a machine that only serves does not have.
        pin_workers: where there is a worker for every core, each stays on its own.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    allow_remote: bool = False
    allow_management: bool = False
    max_workers: Annotated[int, Meta(ge=1)] = 256
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 16 << 20
    max_json_bytes: Annotated[int, Meta(ge=1024)] = 4 << 20
    max_bytes_in_flight: Annotated[int, Meta(ge=1024)] = 256 << 20
    max_candidates: Annotated[int, Meta(ge=1)] = 16_384
    max_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    max_connections: Annotated[int, Meta(ge=1)] = 4096
    max_head_bytes: Annotated[int, Meta(ge=1024)] = 64 << 10
    head_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    body_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    drain_s: Annotated[int, Meta(ge=1)] = 10
    switch_interval_us: Annotated[int, Meta(ge=1)] = 500
    worker_priority: Priority = "batch"
    pin_workers: bool = True

    def __post_init__(self) -> None:
        """Refuse to be reachable from other machines by accident.

        Raises:
            UsageError: for a host that is not loopback without ``allow_remote``.
        """
        if not self.allow_remote and not is_loopback(self.host):
            raise UsageError(
                f"host {self.host!r} can be reached from other machines and there is no "
                "authentication; set allow_remote (--allow-remote) to listen there all the same"
            )


class QueryEncoder(Protocol):
    """Turns raw features into a query; ``data.Transforms`` is one."""

    def encode_query(
        self, raw_query: dict[str, Any], raw_candidates: list[dict[str, Any]], schema: Schema
    ) -> Query:
        """Return the query that the raw features describe."""
        ...

    def fields(self, schema: Schema, scope: Scope) -> tuple[str, ...]:
        """Return the names of the raw features of a scope."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model ready to be served, wherever it comes from.

    Attributes:
        name: stands in URLs: letters, digits, dot, dash and underscore.
        schema: what its queries look like.
        plan: how its queries become work.
        new_runner: called once for each of the plan's workers.
        version: stands in URLs.
        transforms: encodes raw features; without it they are taken as encoded.
        manifest: of the bundle it comes from, if it comes from one.
        lighter: a cheaper version that takes the same queries; an adaptive policy turns to it
            for what would be late else. Its plan and name are not looked at.
    """

    name: str
    schema: Schema
    plan: Plan
    new_runner: Callable[[], Runner]
    version: str = VERSION
    transforms: QueryEncoder | None = None
    manifest: Manifest | None = None
    lighter: ServedModel | None = None

    def __post_init__(self) -> None:
        """Refuse names that would not survive in a URL, and a lighter version of something else.

        Raises:
            UsageError: naming the name, or what differs.
        """
        if self.lighter is not None:
            _check_lighter(self, self.lighter)
        for kind, name in (("name", self.name), ("version", self.version)):
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"model {kind} {name!r} must be 1 to 128 letters, digits, '.', '-' or '_', "
                    "and not begin with '.' or '-'"
                )


def load_served(
    path: str | Path, *, name: str | None = None, plan: Plan | None = None
) -> ServedModel:
    """Return the bundle at ``path``, verified and replayed, ready to be served.

    Args:
        path: the bundle's folder.
        name: to serve it under; the bundle's own name by default.
        plan: in place of the bundle's.

    Raises:
        BundleError: if anything about the bundle is off.
    """
    # Imported late: a server of other runners needs neither compiler nor engine.
    from headway.data import Transforms  # noqa: PLC0415
    from headway.engine import load_model  # noqa: PLC0415

    loaded = load_model(path)
    manifest = loaded.bundle.manifest
    raw = loaded.bundle.transforms_json
    return ServedModel(
        name=name or manifest.name,
        schema=manifest.schema,
        plan=plan or manifest.plan,
        new_runner=loaded.runner,
        transforms=None if raw is None else Transforms.from_json(raw),
        manifest=manifest,
    )


def _check_lighter(model: ServedModel, lighter: ServedModel) -> None:
    """Refuse what would read a query of the model differently."""
    first, second = _reads(model), _reads(lighter)
    differing = [name for name, read in first.items() if read != second[name]]
    if differing or lighter.lighter is not None:
        what = " and ".join(differing) or "number of lighter versions"
        raise UsageError(
            f"model {lighter.name!r} cannot answer for {model.name!r}: its {what} differ; "
            "a lighter version must take the same queries"
        )


def _reads(model: ServedModel) -> dict[str, object]:
    # How wide a table is, is its model's own matter.
    return {
        "features": model.schema.features,
        "table sizes": [(table.name, table.rows) for table in model.schema.tables],
        "tasks": model.schema.tasks,
        "transforms": model.transforms,
    }


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
