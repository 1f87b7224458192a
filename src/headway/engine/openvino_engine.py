"""A dense tower in OpenVINO, where that is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headway.core import MissingDependencyError
from headway.engine.seam import DenseCall, Shapes

HAS_OPENVINO = find_spec("openvino") is not None
Hint = Literal["f32", "bf16"]


@cache
def _core() -> Any:
    if not HAS_OPENVINO:
        raise MissingDependencyError("openvino", "openvino", "running a tower in OpenVINO")
    return import_module("openvino").Core()  # when asked for: it takes a third of a second


@cache
def multiplies_bf16() -> bool:
    """Tell whether OpenVINO is there and multiplies bfloat16 faster than by way of float32."""
    if not HAS_OPENVINO:
        return False
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """Implements ``seam.DenseEngine``.

    Attributes:
        inputs: shape of a row of what it is fed, by name.
        outputs: names of what it gives.
    """

    def __init__(self, content: bytes, threads: int = 1, hint: Hint = "f32") -> None:
        """Compile a graph.

        Args:
            content: ONNX bytes, float32 or with quantized products.
            threads: threads inside one run.
            hint: what products of float32 are computed in; its own default is bfloat16 wherever
                the processor has it.

        Raises:
            MissingDependencyError: if OpenVINO is not installed.
        """
        core = _core()
        model = core.read_model(content)
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(model, "CPU", settings)
        self.inputs: Shapes = {
            value.any_name: tuple(int(d.to_string()) for d in list(value.partial_shape)[1:])
            for value in self._compiled.inputs
        }
        self.outputs = tuple(value.any_name for value in self._compiled.outputs)

    def caller(self) -> DenseCall:
        """Return a request of its own; the GIL is released while it computes."""
        return _Request(self._compiled.create_infer_request())


class _Request:
    def __init__(self, request: Any) -> None:
        self._request = request

    def __call__(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        cores = _cores()
        self._request.infer(dict(feed), share_inputs=True)
        _restore(cores)
        # Its memory is written anew by the next run.
        return [np.array(self._request.get_tensor(name).data, np.float32) for name in outputs]


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _restore(cores: set[int]) -> None:
    """Undo what a run does to its caller: it sets the cores that it saw when it was compiled."""
    if cores != _cores():
        os.sched_setaffinity(0, cores)
