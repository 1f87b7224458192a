"""From a bundle on disk to runners that reproduce its golden rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from headway.bundle import Bundle, Manifest, TowerEntry, read_bundle
from headway.core import BundleError, DataError, HeadwayError
from headway.data import Transforms
from headway.engine.compiled import CompiledModel, CompiledRunner
from headway.engine.dense import Tower
from headway.engine.ranker import Ranker, raw_outputs
from headway.engine.tables import TableRecords

TablePlacement = Literal["copy", "map"]


class LoadedModel:
    """A verified bundle, ready to make runners.

    Attributes:
        bundle: what was read.
        model: tables and sessions that all runners share.
    """

    def __init__(self, bundle: Bundle, model: CompiledModel) -> None:
        self.bundle = bundle
        self.model = model

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def transforms_json(self) -> bytes | None:
        """The transforms from raw features, or None if the bundle has none."""
        return self.bundle.transforms_json

    def runner(self) -> CompiledRunner:
        """Return a new runner, for one thread."""
        return self.model.runner()


def load_model(
    source: str | Path | Bundle,
    *,
    tables: TablePlacement = "copy",
    threads: int | None = None,
) -> LoadedModel:
    """Read and check a bundle, build its engines, and replay its golden queries.

    Args:
        source: a bundle, or where it is.
        tables: ``copy`` into memory of this process, where large pages make lookups up to half
            faster; or ``map`` the files, so that several processes share one copy.
        threads: threads inside one run of a tower; by default what the bundle's plan says.

    Raises:
        BundleError: if the bundle is damaged, does not fit together, or an output of a golden
            query differs from the recorded one by more than the manifest's
            ``golden_tolerance``, in units of the raw output.
    """
    bundle = source if isinstance(source, Bundle) else read_bundle(source)
    _check_transforms(bundle)
    manifest = bundle.manifest
    query, candidate = manifest.query_tower, manifest.candidate_tower
    model = CompiledModel(
        manifest.schema,
        {entry.name: _records(bundle, entry.name, tables) for entry in manifest.tables},
        None if query is None else _tower(bundle, query),
        _tower(bundle, candidate),
        threads=manifest.plan.threads if threads is None else threads,
    )
    loaded = LoadedModel(bundle, model)
    _replay(loaded)
    return loaded


def _tower(bundle: Bundle, entry: TowerEntry) -> Tower:
    few, precision = entry.few, entry.precision
    return Tower(
        entry,
        bundle.tower_bytes(entry),
        entry.engine,
        precision,
        None if few is None else Tower(entry, bundle.tower_bytes(few), few.engine, precision),
        0 if few is None else few.rows,
    )


def load(path: str | Path) -> Ranker:
    """Load a bundle for scoring in this process.

    Raises:
        BundleError: as ``load_model``.
    """
    loaded = load_model(path)
    raw = loaded.transforms_json
    transforms = None if raw is None else Transforms.from_json(raw)
    return Ranker(loaded.manifest.schema, loaded.runner(), transforms)


def _records(bundle: Bundle, name: str, placement: TablePlacement) -> TableRecords:
    entry = bundle.table_entry(name)
    mapped = TableRecords(entry.format, entry.dim, bundle.table(name), bundle.fold(name))
    return mapped if placement == "map" else mapped.resident()


def _check_transforms(bundle: Bundle) -> None:
    """Refuse transforms that would fail, or give ids outside a table, at the first raw query."""
    raw, schema = bundle.transforms_json, bundle.manifest.schema
    if raw is None:
        return
    try:
        found = Transforms.from_json(raw)
    except DataError as error:
        raise BundleError(f"the bundle's transforms cannot be read: {error}") from error
    named, wanted = set(found.features), {f.name for f in schema.features}
    if named != wanted:
        raise BundleError(
            f"the bundle's transforms make the features {sorted(named)}, its schema has "
            f"{sorted(wanted)}; write the bundle again"
        )
    for feature in schema.id_features():
        table = schema.table(feature.table)
        encoder = found.encoders.get(table.name)
        if encoder is None or encoder.rows > table.rows:
            made = "none" if encoder is None else f"ids below {encoder.rows}"
            raise BundleError(
                f"the bundle's transforms give {made} for the table {table.name!r}, which has "
                f"{table.rows} rows; write the bundle again"
            )


def _replay(loaded: LoadedModel) -> None:
    """Score the golden queries, each whole and alone, as when they were recorded."""
    runner, manifest = loaded.runner(), loaded.manifest
    for number, (query, expected) in enumerate(loaded.bundle.golden):
        try:
            (found,) = raw_outputs(runner, [query], len(manifest.schema.tasks))
        except HeadwayError:
            raise
        except Exception as error:  # whatever ONNX Runtime raises, the bundle cannot be served
            raise BundleError(f"golden query {number} cannot be scored: {error}") from error
        worst = float(np.abs(found - expected).max(initial=0.0))
        if not worst <= manifest.golden_tolerance:  # also when it is NaN
            raise BundleError(
                f"golden query {number} does not reproduce: an output differs by {worst:.3g}, "
                f"accepted are {manifest.golden_tolerance:.3g}; write the bundle again on a "
                "machine like this one, or raise the tolerance there"
            )
