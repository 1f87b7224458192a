"""From any torch module to tables and two small dense graphs: capture, partition, lower."""

from importlib.util import find_spec

from headway.core import MissingDependencyError

if find_spec("torch") is None:
    raise MissingDependencyError("torch", "optimize", "capturing a model")
if find_spec("onnx") is None or find_spec("onnxscript") is None:
    raise MissingDependencyError("onnxscript", "optimize", "writing a model as ONNX")

from headway.graph.capture import Captured, Part, PartKind, capture, trace
from headway.graph.explain import Explanation, NodeCost, explain
from headway.graph.golden import example_columns, golden_queries
from headway.graph.layout import Tower
from headway.graph.lower import Lowered, TowerGraph, lower
from headway.graph.nodes import NOISE
from headway.graph.onnx_import import Imported, import_onnx
from headway.graph.partition import Partition, partition
from headway.graph.recurrent import GRU
from headway.graph.rewrites import ALL, Rewrite

__all__ = [
    "ALL",
    "GRU",
    "NOISE",
    "Captured",
    "Explanation",
    "Imported",
    "Lowered",
    "NodeCost",
    "Part",
    "PartKind",
    "Partition",
    "Rewrite",
    "Tower",
    "TowerGraph",
    "capture",
    "example_columns",
    "explain",
    "golden_queries",
    "import_onnx",
    "lower",
    "partition",
    "trace",
]
