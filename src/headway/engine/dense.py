"""What runs a tower's dense graph: ONNX Runtime, or Headway's own steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from headway.bundle import Program, TowerForm
from headway.core import BundleError, Clock, Scope, from_seconds
from headway.engine.machine import saturates_int8
from headway.engine.program import ProgramEngine
from headway.engine.tables import TowerLayout

_OUTPUT = "output"
_ERRORS_ONLY = 3
_LEAST_RUNS, _WARM_RUNS = 7, 2
ort.set_default_logger_severity(_ERRORS_ONLY)  # it warns of absent GPUs where none is wanted


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """A dense graph and what goes into it.

    Attributes:
        layout: names of inputs and outputs and the places of the lookups.
        content: the serialised graph.
        form: what ``content`` is.
    """

    layout: TowerLayout
    content: bytes
    form: TowerForm = "onnx"


class DenseCall(Protocol):
    """Runs a tower; used by one thread at a time."""

    def __call__(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        """Return the outputs of these names for C-contiguous inputs by name."""
        ...


class DenseEngine(Protocol):
    """A tower ready to run, shared by all runners."""

    def caller(self) -> DenseCall:
        """Return a way to run it for one runner; the GIL is released while it computes."""
        ...


class OnnxEngine:
    """A tower in ONNX Runtime.

    Attributes:
        inputs: names of what it is fed.
        outputs: names of what it gives.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # A pattern is kept for every row count met, which on a server is without bound.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if saturates_int8():
            # Exact instead of fast. With the right instructions it would only be slow: twice the time.
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def caller(self) -> DenseCall:
        """Return the session's own call, which any number of threads may use at once."""
        return self._session.run  # type: ignore[no-any-return]


def open_tower(scope: Scope, tower: Tower, threads: int = 1) -> DenseEngine:
    """Return the tower ready to run.

    Args:
        scope: which tower of a model it is.
        tower: what to run.
        threads: threads inside one run, where the engine has such.

    Raises:
        BundleError: naming what does not fit its layout or cannot be loaded.
    """
    engine = _open(scope, tower, threads)
    inputs = sorted(tower.layout.inputs)
    if tower.form == "program":  # it knows rows of queries without naming them
        inputs = [name for name in inputs if name != "row_to_query"]
    for kind, wanted, found in (
        ("inputs", inputs, engine.inputs),
        ("outputs", sorted(tower.layout.outputs), engine.outputs),
    ):
        if wanted != sorted(found):
            raise BundleError(f"the {scope} tower has {kind} {list(found)}, declared are {wanted}")
    if scope is Scope.CANDIDATE and tower.layout.outputs != (_OUTPUT,):
        raise BundleError(f"the candidate tower's output must be {_OUTPUT!r}")
    return engine


def _open(scope: Scope, tower: Tower, threads: int) -> OnnxEngine | ProgramEngine:
    if tower.form == "program":
        return ProgramEngine(Program.from_bytes(tower.content))
    try:
        return OnnxEngine(tower.content, threads)
    except Exception as error:  # its exceptions have no common parent of their own
        raise BundleError(f"ONNX Runtime cannot load the {scope} tower: {error}") from error


def compare_dense(
    towers: Sequence[Tower],
    scope: Scope,
    rows: Sequence[int],
    clock: Clock,
    seconds: float = 0.1,
) -> list[dict[int, float]]:
    """Return each tower's median microseconds by rows, measured turn by turn on drawn inputs.

    Args:
        towers: forms of one tower, all with the same layout.
        scope: which tower of a model they are.
        rows: rows in one run.
        clock: what tells the time.
        seconds: for each number of rows.
    """
    engines = [open_tower(scope, tower) for tower in towers]
    calls = [engine.caller() for engine in engines]
    if len(calls) == 1:
        return [dict.fromkeys(rows, 0.0)]
    outputs = list(towers[0].layout.outputs)
    widths = next(e.widths for e in engines if isinstance(e, ProgramEngine))
    found: list[dict[int, float]] = [{} for _ in towers]
    for count in rows:
        feed = _drawn(widths, count, mapped="row_to_query" in towers[0].layout.inputs)
        samples: list[list[int]] = [[] for _ in calls]
        end = clock.now() + from_seconds(seconds)
        while len(samples[0]) < _LEAST_RUNS or clock.now() < end:
            for call, taken in zip(calls, samples, strict=True):
                start = clock.now()
                call(outputs, feed)
                taken.append(clock.now() - start)
        for place, taken in enumerate(samples):
            found[place][count] = float(np.median(taken[_WARM_RUNS:])) / 1000
    return found


def _drawn(widths: Mapping[str, int], rows: int, *, mapped: bool) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {
        name: rng.standard_normal((1 if name.startswith("hidden.") else rows, width), np.float32)
        for name, width in widths.items()
    }
    if mapped:
        feed["row_to_query"] = np.zeros(rows, np.int64)
    return feed
