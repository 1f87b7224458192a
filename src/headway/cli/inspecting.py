"""``headway inspect``, ``validate`` and ``doctor``: what is there, and is it whole."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from pathlib import Path

import msgspec

from headway import __version__
from headway.bundle import Bundle, GuardEntry, read_bundle
from headway.cli.pages.tables import figure_of, interval_of
from headway.cli.terminal import Terminal, size
from headway.core import Dense, MonotonicClock, Scope, UsageError, to_ms, to_seconds
from headway.data import Transforms, example_record
from headway.engine import MachineFacts, load_model, machine_facts

_EXTRAS = {
    "numpy": "serving",
    "numba": "serving: table kernels",
    "onnxruntime": "serving: dense parts",
    "uvicorn": "serving: HTTP",
    "torch": "optimize: training and capture",
    "onnx": "optimize: lowering",
    "onnxscript": "optimize: lowering",
    "polars": "optimize: reading data",
    "matplotlib": "optimize: reports",
}


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """What loading a bundle in this process showed."""

    bundle: str
    valid: bool
    golden_queries: int
    load_seconds: float
    torch_loaded: bool


class Doctor(msgspec.Struct, frozen=True, kw_only=True):
    """This machine, and what Headway would use of it."""

    headway: str
    python: str
    machine: MachineFacts
    packages: dict[str, str | None]


def inspect(path: Path, terminal: Terminal) -> None:
    """Print what stands in a bundle, after checking every byte of it.

    Raises:
        UsageError: if it is a checkpoint.
        BundleError: naming what is off.
    """
    _refuse_checkpoint(path)
    bundle = read_bundle(path)
    manifest = bundle.manifest
    scope = {s: ", ".join(f.name for f in manifest.schema.of_scope(s)) or "none" for s in Scope}
    plan = manifest.plan
    rows = [
        ("made from", f"{manifest.provenance.model} by headway {manifest.provenance.headway}"),
        ("size", size(bundle.total_bytes)),
        ("tasks", ", ".join(f"{t.name} ({t.link})" for t in manifest.schema.tasks)),
        ("query-level", scope[Scope.QUERY]),
        ("candidate-level", scope[Scope.CANDIDATE]),
        ("dense parts", _towers(bundle)),
        ("raw features", "yes, with transforms" if manifest.has_transforms else "no"),
        ("golden queries", f"{len(bundle.golden)}, within {manifest.golden_tolerance:.2g}"),
        ("plan", f"{plan.workers} workers, split {plan.split_size}, batch {plan.batch_candidates}"),
        ("guard", _guard(manifest.guard)),
    ]
    terminal.table(f"{manifest.name}  {path}", ("", ""), rows)
    terminal.table(
        "tables",
        ("name", "rows", "dim", "format", "size"),
        [
            (t.name, f"{t.rows:,}", str(t.dim), t.format, size(t.rows * t.row_bytes))
            for t in manifest.tables
        ],
    )
    terminal.table(
        "features",
        ("name", "kind", "scope", "shape or table"),
        [
            (
                f.name,
                type(f).__name__.lower(),
                str(f.scope),
                f"{f.width} numbers" if isinstance(f, Dense) else f.table,
            )
            for f in manifest.schema.features
        ],
    )
    _show_request(bundle, terminal)
    if manifest.choices:
        terminal.table(
            "compositions tried",
            ("name", "latency, N = 256", "size", "largest error", "taken", "why"),
            [
                (
                    c.name,
                    f"{c.latency_us:.0f} us",
                    size(c.size_bytes),
                    figure_of(c.max_error, ".2g"),
                    "yes" if c.chosen else "no",
                    c.reason,
                )
                for c in manifest.choices
            ],
        )
    terminal.object(manifest)


def validate(path: Path, terminal: Terminal) -> None:
    """Check every hash, build the engines and replay the golden rows.

    Raises:
        UsageError: if it is a checkpoint.
        BundleError: naming what is off.
    """
    _refuse_checkpoint(path)
    clock = MonotonicClock()
    start = clock.now()
    loaded = load_model(path)
    found = Validation(
        bundle=str(path),
        valid=True,
        golden_queries=len(loaded.bundle.golden),
        load_seconds=round(to_seconds(clock.now() - start), 3),
        torch_loaded="torch" in sys.modules,
    )
    terminal.result(
        f"{path} is whole: every hash holds and {found.golden_queries} golden queries reproduce "
        f"({to_ms(clock.now() - start):.0f} ms to load, "
        f"torch {'loaded' if found.torch_loaded else 'not loaded'})"
    )
    terminal.object(found)


def doctor(terminal: Terminal) -> None:
    """Print what this machine has and what Headway would use."""
    facts = machine_facts()
    packages = {name: _version(name) for name in _EXTRAS}
    terminal.table(
        f"headway {__version__}",
        ("", ""),
        [
            ("processor", f"{facts.cpu} ({facts.architecture})"),
            ("cores", f"{facts.usable_cores} usable of {facts.cores}: that many workers"),
            ("vector units", ", ".join(facts.vector_features) or "none known"),
            ("memory", size(facts.memory_bytes)),
            ("huge pages", facts.huge_pages or "none"),
            ("system", f"{facts.system}, Python {sys.version.split()[0]}"),
        ],
    )
    terminal.table(
        "packages",
        ("name", "version", "for"),
        [(name, version or "missing", _EXTRAS[name]) for name, version in packages.items()],
    )
    missing = [name for name, version in packages.items() if version is None]
    if missing:
        terminal.result("install what is missing with: pip install 'headway[optimize]'")
    terminal.object(
        Doctor(
            headway=__version__,
            python=sys.version.split()[0],
            machine=facts,
            packages=packages,
        )
    )


def _refuse_checkpoint(path: Path) -> None:
    if (path / "model.json").exists() and not (path / "manifest.json").exists():
        raise UsageError(
            f"{path} is a checkpoint, not a bundle; make one of it with: "
            f"headway optimize CONFIG --checkpoint {path}"
        )


def _show_request(bundle: Bundle, terminal: Terminal) -> None:
    """Print the raw fields that clients send, and a call that can be pasted."""
    if bundle.transforms_json is None:
        return
    manifest = bundle.manifest
    transforms = Transforms.from_json(bundle.transforms_json)
    query, candidate = (example_record(transforms, manifest.schema, s) for s in Scope)
    rows = [
        (field, where, msgspec.json.encode(value).decode())
        for where, record in (("query", query), ("each candidate", candidate))
        for field, value in record.items()
    ]
    terminal.table("raw fields", ("name", "in", "for example"), rows)
    body = msgspec.json.encode({"query": query, "candidates": [{"id": "a", **candidate}]}).decode()
    url = f"http://127.0.0.1:8000/v1/rank/{manifest.name}"
    terminal.result(f"rank a candidate, once headway serve {bundle.path} runs:")
    terminal.result(f"curl -s {url} -d {shlex.quote(body)}\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _towers(bundle: Bundle) -> str:
    manifest = bundle.manifest
    query = manifest.query_tower
    once = "no query tower" if query is None else f"query tower {query.precision}"
    return f"{once}, candidate tower {manifest.candidate_tower.precision}"


def _guard(guard: GuardEntry | None) -> str:
    if guard is None:
        return "none: this bundle was not judged"
    return (
        f"{guard.verdict}: delta AUC {figure_of(guard.delta_auc, '+.5f')} "
        f"{interval_of(guard)} on {guard.rows:,} rows"
    )
