"""An ONNX model becomes a torch module that ``capture`` accepts, so that all else is one path.

The inputs go by the names of the schema's features:

========== ==================================================================================
feature    inputs
========== ==================================================================================
dense F    ``F``: float ``[rows, width]``, or ``[rows]`` for width 1
sparse F   ``F``: int64 or int32 ``[rows]`` or ``[rows, 1]``
bag F      ``F``: ids ``[rows, length]`` filled up with -1 or 0; or ``F.values`` with
           ``F.offsets`` (``rows + 1`` of them); ``_`` may stand for the dot
sequence F ``F``: ids ``[rows, max_length]`` filled up with 0 or -1; and, if the model wants it,
           ``F.mask`` ``[rows, max_length]``, 1 where there is an id
========== ==================================================================================

The first axis of all of them is dynamic. Outputs: one ``[rows, tasks]``, or one per task in the
schema's order. A sigmoid at the end of a task whose link is a sigmoid is taken off, because
Headway compares and stores outputs before the link.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from headway.core import Bag, CaptureError, IdFeature, Link, Schema
from headway.graph.capture import PartKind
from headway.graph.onnx_import_check import check_against_file
from headway.graph.onnx_import_file import OnnxFile, read_onnx
from headway.graph.onnx_import_inputs import Given, match_inputs
from headway.graph.onnx_import_lookups import Found, LookupFinder
from headway.graph.onnx_import_module import OnnxModule, plan_steps

_SHAPING = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A model that came as ONNX.

    Attributes:
        model: ``forward(features)`` as made by ``core.model_inputs``; gives raw outputs.
        notes: what was found and changed, as sentences.
    """

    model: OnnxModule
    notes: tuple[str, ...]


def import_onnx(path: str | Path, schema: Schema) -> Imported:
    """Read an ONNX model (opset 17 or later) as a torch module.

    Embeddings are found by what they compute: all that depends on one feature's ids alone is run
    in ONNX Runtime on drawn ids, and what equals rows of a constant of the table's shape, or
    their pooling, becomes a lookup. Nothing else may read ids. At the end the module is compared
    with the file, run whole in ONNX Runtime on drawn rows.

    Args:
        path: the ``.onnx`` file; external data must lie beside it or below.
        schema: features, tables and tasks of the model.

    Raises:
        CaptureError: naming the file, input or node that is off, and the remedy.
    """
    file = read_onnx(path)
    given = match_inputs(file.inputs, schema)
    found: dict[str, Found] = {}
    notes: list[str] = []
    finder = LookupFinder(file, schema)
    for feature in schema.id_features():
        own = [g for g in given if g.feature is feature and g.kind is not PartKind.MASK]
        values = finder.find(feature, own)
        found |= values
        notes += _said(feature, values, own)
    outputs = _outputs(file, schema)
    taken = _take_sigmoids(file, schema)
    notes += [
        f"the sigmoid at the end of {name!r} is the task's link and was taken off"
        for name, was in zip(outputs, taken, strict=True)
        if was
    ]
    plan = plan_steps(file, found, given, outputs)
    model = OnnxModule(plan, file.constants, schema)
    check_against_file(Path(path), model, given, finder.fills, taken, half=file.half)
    return Imported(model, tuple(notes))


def _said(feature: IdFeature, values: Mapping[str, Found], given: list[Given]) -> list[str]:
    tables = sorted({f.table for f in values.values() if f.table})
    if not tables:
        return []
    notes = [f"found: {feature.name!r} is looked up in {', '.join(map(repr, tables))}"]
    if isinstance(feature, Bag) and given[0].kind is PartKind.IDS:
        notes.append(
            f"padding: ids of the bag {feature.name!r} that the model takes for padding must not "
            "be sent as ids; to Headway every id of a bag counts"
        )
    return notes


def _outputs(file: OnnxFile, schema: Schema) -> list[str]:
    names = [value.name for value in file.graph.output]
    if len(names) not in {1, len(schema.tasks)}:
        raise CaptureError(
            f"the model has the outputs {names}; it needs one [rows, {len(schema.tasks)}], or one "
            f"for each of the tasks {[t.name for t in schema.tasks]} in their order"
        )
    return names


def _take_sigmoids(file: OnnxFile, schema: Schema) -> list[bool]:
    """Turn the last sigmoid of each task that has one as its link into an identity.

    Returns:
        of each output, whether it had one.
    """
    names = [value.name for value in file.graph.output]
    links = [task.link for task in schema.tasks]
    if len(names) != len(links):
        links = [Link.SIGMOID if set(links) == {Link.SIGMOID} else Link.IDENTITY] * len(names)
    made_by = {name: node for node in file.graph.node for name in node.output}
    uses = [name for node in file.graph.node for name in node.input] + names
    taken = []
    for name, link in zip(names, links, strict=True):
        last = _last_sigmoids(name, made_by, uses) if link is Link.SIGMOID else []
        for node in last:
            node.op_type = "Identity"
        taken.append(bool(last))
    return taken


def _last_sigmoids(
    name: str, made_by: Mapping[str, onnx.NodeProto], uses: list[str]
) -> list[onnx.NodeProto]:
    """Return the sigmoids that give the output, through changes of shape alone; none if mixed."""
    node = made_by.get(name)
    if node is None or uses.count(name) > 1:
        return []
    if node.op_type == "Sigmoid":
        return [node]
    if node.op_type in _SHAPING:
        return _last_sigmoids(node.input[0], made_by, uses)
    if node.op_type == "Concat":
        parts = [_last_sigmoids(part, made_by, uses) for part in node.input]
        return [n for part in parts for n in part] if all(parts) else []
    return []
