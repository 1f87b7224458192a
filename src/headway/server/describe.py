"""What the server and its models say about themselves, in the protocol's words."""

from __future__ import annotations

from typing import Any

import msgspec

from headway import __version__
from headway.core import Dense, Feature, Plan, Schema, Scope, Sparse
from headway.server.executor import Standing
from headway.server.metrics import ModelMetrics
from headway.server.settings import ServedModel
from headway.server.tensors import OUTPUT

_ANY = -1
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


def server_metadata() -> dict[str, Any]:
    """Return name, version and what of the protocol is offered."""
    return {"name": "headway", "version": __version__, "extensions": EXTENSIONS}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Return the tensors a model takes and gives; -1 stands for any length."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "headway",
        "inputs": [
            {"name": f.name, "datatype": _datatype(f), "shape": _shape(f)}
            for f in model.schema.features
        ],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": _output_shape(model.schema)}],
    }


def model_config(model: ServedModel, plan: Plan) -> dict[str, Any]:
    """Return the model's settings in the form of Triton's model configuration.

    Its parameters hold schema and the plan in force as JSON, so that a client can make queries
    that fit.
    """
    metadata = model_metadata(model)
    return {
        "name": model.name,
        "platform": "headway",
        "backend": "headway",
        "max_batch_size": 0,
        "input": [_config_tensor(t) for t in metadata["inputs"]],
        "output": [_config_tensor(t) for t in metadata["outputs"]],
        "instance_group": [
            {"name": model.name, "kind": "KIND_CPU", "count": plan.workers, "gpus": []}
        ],
        "parameters": {
            "headway_schema": _text(model.schema),
            "headway_plan": _text(plan),
        },
    }


def model_statistics(model: ServedModel, metrics: ModelMetrics) -> dict[str, Any]:
    """Return counts and times since the start, in Triton's form; times in nanoseconds."""
    done, failed = metrics.outcomes["done"], metrics.failures()
    times = {
        "success": metrics.latency.total_ns,
        "queue": metrics.queue_ns,
        "compute_infer": metrics.latency.total_ns - metrics.queue_ns,
    }
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": 0,
        "inference_count": metrics.candidates,
        "execution_count": metrics.batches(),
        "inference_stats": {
            **{key: {"count": done, "ns": ns} for key, ns in times.items()},
            **{key: {"count": 0, "ns": 0} for key in ("compute_input", "compute_output")},
            "fail": {"count": failed, "ns": 0},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
    }


def _text(settings: Schema | Plan) -> dict[str, str]:
    return {"string_value": msgspec.json.encode(settings).decode()}


def _datatype(feature: Feature) -> str:
    return "FP32" if isinstance(feature, Dense) else "INT64"


def _shape(feature: Feature) -> list[int]:
    rows = 1 if feature.scope is Scope.QUERY else _ANY
    if isinstance(feature, Sparse):
        return [rows]
    return [rows, feature.width if isinstance(feature, Dense) else _ANY]


def _output_shape(schema: Schema) -> list[int]:
    return [_ANY] if len(schema.tasks) == 1 else [_ANY, len(schema.tasks)]


def _config_tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": tensor["name"],
        "data_type": f"TYPE_{tensor['datatype']}",
        "dims": tensor["shape"],
    }


def model_plan(model: ServedModel, standing: Standing) -> dict[str, Any]:
    """Return the plan in force and how its policy moves."""
    wait, rate = standing.wait_s, standing.arrival_rate
    return {
        "name": model.name,
        "version": model.version,
        "plan": standing.plan,
        "split_size": standing.split_size,
        "arrival_candidates_per_second": rate,
        "predicted_wait_ms": None if wait is None else wait * 1000,
    }
