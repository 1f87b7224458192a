"""Which products of a tower may be int8 together: each is tried alone, and the worst are left."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.compress.calibrate import Feed
from headway.compress.quantize import Range, activations, products_of, quantize_dense
from headway.engine import OnnxEngine, outputs_on

_SHARE = 0.7
"""Of the accepted error, what the products may add up to: other rows show more of it."""


def narrow_enough(
    graph: bytes, ranges: Mapping[str, Range], samples: Sequence[Feed], limit: float
) -> frozenset[str]:
    """Return the activations whose products may be int8 while outputs stay close to float32.

    All of them where that holds. Otherwise the error of each alone is measured; they are taken
    by how little error they bring for their weights while the squares of the errors add up to
    less than a share of the limit, and the last taken are given back while all together bring
    more. After "Mixed precision" in Wu et al., "Integer Quantization for Deep Learning Inference"
    (2020), section 5.2, with weights for cost.

    Args:
        graph: ONNX bytes of a float32 tower.
        ranges: of all its ``activations``.
        samples: what it is fed.
        limit: largest root mean square change of an output, as a share of its spread.
    """
    exact = _outputs(graph, samples)

    def error(only: Container[str]) -> float:
        return _change(_outputs(quantize_dense(graph, ranges, only), samples), exact)

    names, room = activations(graph), limit * _SHARE
    if error(frozenset(names)) <= room:
        return frozenset(names)
    weights = products_of(graph)
    alone = {name: error({name}) for name in names}
    taken: list[str] = []
    total = 0.0
    for name in sorted(names, key=lambda name: alone[name] ** 2 / weights[name]):
        if total + alone[name] ** 2 <= room**2:
            taken.append(name)
            total += alone[name] ** 2
    while taken and error(frozenset(taken)) > room:
        taken.pop()
    return frozenset(taken)


def _outputs(graph: bytes, samples: Sequence[Feed]) -> list[NDArray[np.float32]]:
    engine = OnnxEngine(graph)
    return outputs_on(engine.caller(), engine.outputs, samples)


def _change(found: Sequence[NDArray[np.float32]], exact: Sequence[NDArray[np.float32]]) -> float:
    """Return the largest root mean square change of an output, as a share of its spread."""
    shares = [
        float(np.sqrt(np.square(array - wanted).mean()) / (wanted.std() or 1.0))
        for array, wanted in zip(found, exact, strict=True)
    ]
    return max(shares)
