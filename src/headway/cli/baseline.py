"""The unoptimised model as a runner; made in a process of its own, which loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.core import Runner


def eager_runner(checkpoint: str) -> Runner:
    """Return a torch eager runner, one thread, of the checkpoint at the given path."""
    from headway.engine.torch_eager import TorchRunner
    from headway.models import load_checkpoint

    found = load_checkpoint(Path(checkpoint))
    return TorchRunner(found.model, found.schema, threads=1)
