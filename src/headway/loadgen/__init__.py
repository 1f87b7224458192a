"""Drives a server open-loop and records when each query was due, sent and answered."""

from headway.loadgen.bench import Bench, BenchSettings
from headway.loadgen.discover import fetch_models, fetch_schema
from headway.loadgen.fire import fire, fire_one_by_one
from headway.loadgen.http import HttpTarget
from headway.loadgen.null import HarnessCost, null_run, null_server
from headway.loadgen.pool import sizes_for
from headway.loadgen.target import NullTarget, Target
from headway.loadgen.wire import decode_scores, encode_infer

__all__ = [
    "Bench",
    "BenchSettings",
    "HarnessCost",
    "HttpTarget",
    "NullTarget",
    "Target",
    "decode_scores",
    "encode_infer",
    "fetch_models",
    "fetch_schema",
    "fire",
    "fire_one_by_one",
    "null_run",
    "null_server",
    "sizes_for",
]
