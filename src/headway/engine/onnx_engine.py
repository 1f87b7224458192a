"""A dense tower in ONNX Runtime."""

from __future__ import annotations

import onnxruntime as ort

from headway.engine.machine import saturates_int8
from headway.engine.seam import DenseCall, Shapes

_ERRORS_ONLY = 3
ort.set_default_logger_severity(_ERRORS_ONLY)  # it warns of absent GPUs where none is wanted


class OnnxEngine:
    """Implements ``seam.DenseEngine``.

    Attributes:
        inputs: shape of a row of what it is fed, by name.
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
        self.inputs: Shapes = {
            value.name: tuple(value.shape[1:]) for value in self._session.get_inputs()
        }
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def caller(self) -> DenseCall:
        """Return the session's own call, which any number of threads may use at once."""
        return self._session.run  # type: ignore[no-any-return]
