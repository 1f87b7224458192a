"""Memory of this process in large pages, where the system has them."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

HUGE_PAGE = 2 << 20
"""Bytes of a large page on the machines that have them."""
_LINE = 64


def huge_room(size: int, *, huge: bool = True) -> NDArray[np.uint8]:
    """Return uint8 ``[size]`` of zeros, at the start of a page and in large pages if it fills one.

    The mapping is private: memory that may be shared gets no large pages on most systems. Where
    the system grants none, ordinary memory comes back without a word.

    Args:
        size: in bytes.
        huge: False asks for small pages, to compare.
    """
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            room = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            room.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        except OSError:  # a kernel without them
            return line_room(size)
        return _from(np.frombuffer(room, np.uint8), size, HUGE_PAGE)
    return line_room(size)


def huge_copy(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of an array in ``huge_room``."""
    copied = huge_room(values.nbytes).reshape(values.shape)
    copied[:] = values
    return copied


def line_room(size: int) -> NDArray[np.uint8]:
    """Return uint8 ``[size]`` of zeros from the start of a cache line; NumPy's starts 16 bytes behind."""
    return _from(np.zeros(size + _LINE, np.uint8), size, _LINE)


def _from(room: NDArray[np.uint8], size: int, step: int) -> NDArray[np.uint8]:
    start = -room.ctypes.data % step
    return room[start : start + size]
