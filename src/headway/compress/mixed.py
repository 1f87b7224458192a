"""Mixed precision: each part is rounded alone, and the worst are left as they were."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.bundle import TablePart
from headway.compress.calibrate import Feed
from headway.compress.quantize import Range, activations, products_of, quantize_dense
from headway.compress.quantize_tables import as_records
from headway.compress.swap import Swap, change
from headway.engine import OnnxEngine, outputs_on

_SHARE = 0.7
"""Of the accepted error, what rounded parts may add up to: other rows show more of it."""


def narrow_enough(
    graph: bytes, ranges: Mapping[str, Range], samples: Sequence[Feed], limit: float
) -> frozenset[str]:
    """Return the activations whose products may be int8 while outputs stay close to float32.

    Chosen as ``within`` does, with weights for gains.

    Args:
        graph: ONNX bytes of a float32 tower.
        ranges: of all its ``activations``.
        samples: what it is fed.
        limit: largest root mean square change of an output, as a share of its spread.
    """
    exact = _outputs(graph, samples)

    def error(only: Collection[str]) -> float:
        return change(_outputs(quantize_dense(graph, ranges, only), samples), exact)

    weights = products_of(graph)
    return within({name: weights[name] for name in activations(graph)}, error, limit)


def mix_tables(
    fine: Mapping[str, TablePart], coarse: Mapping[str, TablePart], swap: Swap, limit: float
) -> dict[str, TablePart]:
    """Return each table in its coarse form where outputs stay close to float32, else in its fine.

    Chosen as ``within`` does, with saved bytes for gains.

    Args:
        fine: as int8, by name.
        coarse: likewise as int4.
        swap: what the tables are exchanged in.
        limit: largest root mean square change of an output, as a share of its spread.
    """
    schema = swap.rows.schema
    narrow = as_records(coarse, schema)

    def error(only: Container[str]) -> float:
        mixed = {n: coarse[n] if n in only else part for n, part in fine.items()}
        return swap.change(as_records(mixed, schema))

    saved = {n: part.records.nbytes - coarse[n].records.nbytes for n, part in fine.items()}
    gains = {name: gain for name, gain in saved.items() if gain > 0}
    taken = within(gains, error, limit, alone=lambda name: swap.change({name: narrow[name]}))
    return {name: coarse[name] if name in taken else part for name, part in fine.items()}


def within(
    gains: Mapping[str, int],
    error: Callable[[Collection[str]], float],
    limit: float,
    alone: Callable[[str], float] | None = None,
) -> frozenset[str]:
    """Return the parts that may be rounded together.

    All of them where that keeps the limit. Otherwise the error of each alone is measured; they are
    taken by how little error they bring for their gain while the squares of the errors add up to
    less than a share of the limit, and the last taken are given back while all together bring
    more. After "Mixed precision" in Wu et al., "Integer Quantization for Deep Learning Inference"
    (2020), section 5.2, with gains for cost.

    Args:
        gains: what rounding each part is good for; above 0.
        error: root mean square change of the outputs when these parts are rounded, as a share of
            their spread.
        limit: the largest that is accepted.
        alone: likewise for one part, where that is another figure.
    """
    room = limit * _SHARE
    if error(frozenset(gains)) <= room:
        return frozenset(gains)
    found = {name: alone(name) if alone else error({name}) for name in gains}
    taken: list[str] = []
    total = 0.0
    for name in sorted(gains, key=lambda name: found[name] ** 2 / gains[name]):
        if total + found[name] ** 2 <= room**2:
            taken.append(name)
            total += found[name] ** 2
    while taken and error(frozenset(taken)) > room:
        taken.pop()
    return frozenset(taken)


def _outputs(graph: bytes, samples: Sequence[Feed]) -> list[NDArray[np.float32]]:
    engine = OnnxEngine(graph)
    return outputs_on(engine.caller(), engine.outputs, samples)
