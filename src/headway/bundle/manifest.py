"""The manifest: what stands in a bundle, readable without running anything."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.core import Plan, Schema, UsageError

FORMAT_VERSION = 3

TableFormat = Literal["f32", "bf16", "int8", "int4"]
TableChoice = Literal["f32", "bf16", "int8", "int4", "int4-mixed"]
"""Of all tables of a model: one format, or int4 where outputs stay close and int8 elsewhere."""
DensePrecision = Literal["f32", "bf16", "int8", "int8-dynamic"]
"""Of a tower's wide products: float32; bfloat16; int8 with fixed scales, or with scales per batch."""
EngineName = Literal["onnxruntime", "openvino", "headway"]
"""What runs a tower: the first two take ONNX graphs, Headway's own takes programs."""
Verdict = Literal["pass", "fail", "not proven"]
ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
"""What the server calls a model; safe in a URL and as a folder name."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle: its path inside it, size and hash."""

    path: str
    size: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class FoldEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which record each id of a table has: ``bundle.Fold``, whose codes are the file's content.

    There is one for each id from ``hot`` on, little-endian, of ``code_bytes`` bytes; 0 means that
    all of them have record ``hot``, and that the file is empty.
    """

    path: str
    hot: Annotated[int, Meta(ge=0)]
    code_bytes: Literal[0, 1, 2, 4]


class TableEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a table of the schema is stored: ``rows`` records of ``row_bytes`` each.

    An f32 or bf16 record is ``dim`` little-endian numbers; bf16 is the upper half of float32. An
    int8 record is ``dim`` bytes u, then float32 scale and float32 bias; the value is ``scale * u +
    bias``. An int4 record has two u in a byte, the first in its lower half, then a little-endian
    number t of three bytes: the value is ``scale * (u - zero)``, where ``scale`` is the float32
    of the bits ``(t >> 10) << 17``, that is an exponent and six binary digits, and ``zero`` is
    ``(t & 1023) / 16 - 24.5``.

    Id i has record i; where there is a ``fold``, there are fewer records than ids, and it says
    which record an id has.
    """

    name: str
    path: str
    format: TableFormat
    rows: int
    dim: int
    row_bytes: int
    fold: FoldEntry | None = None


class Lookup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pooled or plain lookup and its columns in a tower's input ``embedded``."""

    feature: str
    table: str
    start: int
    width: int


class FewRows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another form of a tower, which runs while there are at most ``rows`` rows."""

    path: str
    engine: EngineName
    rows: Annotated[int, Meta(ge=1)]


class TowerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dense graph. Rows are queries for the query tower, candidates for the other.

    Inputs, each present only if named in ``inputs``:
        ``embedded``: float32 ``[rows, width]``, the vectors of ``lookups`` side by side.
        ``sequence.F``, ``mask.F``: float32 ``[rows, max_length, dim]`` and ``[rows,
        max_length]`` of sequence feature F (looked up by ids filled up with 0).
        ``dense.F``: float32 ``[rows, width]`` of dense feature F.
        ``hidden.I``: the query tower's I-th output, ``[queries, ...]``; candidate tower only.
        ``row_to_query``: int64 ``[rows]``; candidate tower only.
    A tower that is ``per_query`` takes candidates of one query at a time: ``hidden.I`` has that
    query's row alone, and there is no ``row_to_query``.
    Outputs: ``hidden.0``, ``hidden.1`` ... of the query tower; ``output``, float32
    ``[rows, tasks]``, of the candidate tower.
    """

    path: str
    engine: EngineName = "onnxruntime"
    few: FewRows | None = None
    precision: DensePrecision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    embedded_width: int
    per_query: bool = False


class GuardEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the guard said about this bundle against the model it was made from.

    Differences are the bundle's figure minus the model's; ``low`` and ``high`` bound them at the
    one-sided ``confidence`` each. ``calibration`` is predicted over observed rate, ``ece`` the
    expected calibration error, ``*_move_high`` the most by which either may have moved away from
    what was observed. NDCG and hit rate are of the first 10 rows, over the ``queries`` with both
    classes. The worst of the ``slices`` carries an interval corrected for their number. A margin
    is None where it has no part in the verdict, a figure where it was not looked for or outputs
    were NaN or infinite. ``rows_to_decide`` is None where more rows would change nothing.
    ``looks`` are the candidates that share the error, ``rounds`` the resamples drawn.
    """

    verdict: Verdict
    reason: str
    confidence: float
    margin_auc: float
    margin_log_loss: float
    delta_auc: float | None
    delta_auc_low: float | None
    delta_auc_high: float | None
    auc_baseline: float
    auc_optimized: float | None
    delta_log_loss: float | None
    delta_log_loss_low: float | None
    delta_log_loss_high: float | None
    calibration_baseline: float | None
    calibration_optimized: float | None
    ece_baseline: float | None = None
    ece_optimized: float | None = None
    normalized_entropy_baseline: float | None = None
    normalized_entropy_optimized: float | None = None
    margin_calibration: float | None = None
    calibration_move_high: float | None = None
    margin_ece: float | None = None
    ece_move_high: float | None = None
    margin_ndcg: float | None = None
    ndcg_baseline: float | None = None
    ndcg_optimized: float | None = None
    delta_ndcg_low: float | None = None
    delta_ndcg_high: float | None = None
    hit_rate_baseline: float | None = None
    hit_rate_optimized: float | None = None
    queries: int | None = None
    margin_slice: float | None = None
    slices: int = 0
    worst_slice: str | None = None
    worst_slice_rows: int | None = None
    worst_slice_delta_auc: float | None = None
    worst_slice_low: float | None = None
    worst_slice_high: float | None = None
    worst_slice_delta_log_loss: float | None = None
    shared_rows: float | None = None
    looks: int = 1
    rounds: int | None = None
    rows: int
    rows_to_decide: int | None
    task: str


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One composition that was tried, what it cost and whether it was taken.

    ``max_error`` is None where an output was NaN or infinite.
    """

    name: str
    tables: TableChoice
    dense: DensePrecision
    latency_us: float
    size_bytes: int
    max_error: float | None
    chosen: bool
    reason: str


class EngineTrial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine that could have run a tower.

    Attributes:
        tower: which.
        precision: of its products.
        engine: what ran it.
        latency_us: median microseconds by rows in one run of it.
        error: largest difference of an output from ONNX Runtime's, as a share of their spread.
        chosen: whether it runs the tower now.
        reason: why, or why not.
    """

    tower: Literal["query", "candidate"]
    precision: DensePrecision
    engine: EngineName
    latency_us: dict[str, float]
    error: float
    chosen: bool
    reason: str


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bundle comes from; plain facts for people."""

    created_unix: int
    headway: str
    model: str
    details: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a server needs to know about a bundle."""

    format_version: int
    name: ModelName
    schema: Schema
    tables: tuple[TableEntry, ...]
    query_tower: TowerEntry | None
    candidate_tower: TowerEntry
    has_transforms: bool
    golden_tolerance: float
    plan: Plan
    provenance: Provenance
    files: tuple[FileEntry, ...]
    guard: GuardEntry | None = None
    choices: tuple[Choice, ...] = ()
    engines: tuple[EngineTrial, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a manifest that this version cannot read.

        Raises:
            UsageError: if the format is newer or older than ``FORMAT_VERSION``.
        """
        if self.format_version != FORMAT_VERSION:
            raise UsageError(
                f"bundle format {self.format_version} is not format {FORMAT_VERSION}, "
                "which this version of Headway reads; write the bundle again"
            )
