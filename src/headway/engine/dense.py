"""A tower and the engine that runs it: ONNX Runtime, OpenVINO, or Headway's own steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.bundle import DensePrecision, EngineName, Program
from headway.core import BundleError, Scope
from headway.engine.onnx_engine import OnnxEngine
from headway.engine.openvino_engine import HAS_OPENVINO, OpenVinoEngine, multiplies_bf16
from headway.engine.program import ProgramEngine
from headway.engine.seam import DenseCall, DenseEngine
from headway.engine.tables import TowerLayout

_OUTPUT = "output"
_ROW_TO_QUERY = "row_to_query"


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """A dense graph and what goes into it.

    Attributes:
        layout: names of inputs and outputs and the places of the lookups.
        content: the serialised graph; ONNX, or a program for the engine ``headway``.
        engine: what runs it. Without OpenVINO, ONNX Runtime runs its graphs.
        precision: ``bf16`` asks OpenVINO for it; otherwise the graph says it all.
        few: runs it instead while rows are few.
        few_rows: at most so many.
    """

    layout: TowerLayout
    content: bytes
    engine: EngineName = "onnxruntime"
    precision: DensePrecision = "f32"
    few: Tower | None = None
    few_rows: int = 0


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
    # A program knows rows of queries without naming them.
    names = {name for name in tower.layout.inputs if name != _ROW_TO_QUERY}
    for kind, wanted, found in (
        ("inputs", names, set(engine.inputs) - {_ROW_TO_QUERY}),
        ("outputs", set(tower.layout.outputs), set(engine.outputs)),
    ):
        if wanted != found:
            raise BundleError(
                f"the {scope} tower has {kind} {sorted(found)}, declared are {sorted(wanted)}"
            )
    if scope is Scope.CANDIDATE and tower.layout.outputs != (_OUTPUT,):
        raise BundleError(f"the candidate tower's output must be {_OUTPUT!r}")
    if tower.few is not None:
        counted = next(name for name in engine.inputs if not name.startswith("hidden."))
        few = open_tower(scope, tower.few, threads)
        return _ByRows(engine, few, counted, tower.few_rows)
    return engine


def _open(scope: Scope, tower: Tower, threads: int) -> DenseEngine:
    if tower.engine == "headway":
        engine = ProgramEngine(Program.from_bytes(tower.content))
        if engine.one_query and _ROW_TO_QUERY in tower.layout.inputs:
            raise BundleError(
                f"the {scope} tower multiplies by a matrix of one query, but is declared for several"
            )
        return engine
    try:
        if tower.engine == "openvino" and HAS_OPENVINO:
            # Elsewhere it would be neither faster nor exact.
            coarse = tower.precision == "bf16" and multiplies_bf16()
            return OpenVinoEngine(tower.content, threads, "bf16" if coarse else "f32")
        return OnnxEngine(tower.content, threads)
    except Exception as error:  # theirs have no common parent
        name = "OpenVINO" if tower.engine == "openvino" and HAS_OPENVINO else "ONNX Runtime"
        raise BundleError(f"{name} cannot load the {scope} tower: {error}") from error


class _ByRows:
    """Chooses between two engines by the rows of a run."""

    def __init__(self, many: DenseEngine, few: DenseEngine, counted: str, most: int) -> None:
        self._many, self._few, self._counted, self._most = many, few, counted, most
        self.inputs, self.outputs = many.inputs | few.inputs, many.outputs

    def caller(self) -> DenseCall:
        many, few = self._many.caller(), self._few.caller()
        counted, most = self._counted, self._most

        def call(
            outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]
        ) -> list[NDArray[np.float32]]:
            return (few if len(feed[counted]) <= most else many)(outputs, feed)

        return call
