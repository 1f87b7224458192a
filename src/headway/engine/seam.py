"""What every dense engine is to the runner: a tower that is fed arrays by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Shapes = dict[str, tuple[int, ...]]
"""Shape of a row by name."""


class DenseCall(Protocol):
    """Runs a tower; used by one thread at a time."""

    def __call__(
        self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        """Return the outputs of these names for C-contiguous inputs by name."""
        ...


class DenseEngine(Protocol):
    """A tower ready to run, shared by all runners.

    Attributes:
        inputs: shape of a row of what it is fed, by name.
        outputs: names of what it gives.
    """

    inputs: Shapes
    outputs: tuple[str, ...]

    def caller(self) -> DenseCall:
        """Return a way to run it for one runner; the GIL is released while it computes."""
        ...
