"""Weights in the order in which tiles read them, kept at addresses that do not move."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.engine.memory import line_room
from headway.engine.tiles import LANES, WIDE


class Kept:
    """Arrays that live as long as this; like ones are kept once."""

    def __init__(self) -> None:
        self._rooms: dict[bytes, NDArray[np.uint8]] = {}

    def address(self, array: NDArray[Any]) -> int:
        """Return where a copy of the array starts, on a cache line."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = hashlib.sha256(data.data).digest()
        if key not in self._rooms:
            self._rooms[key] = line_room(data.nbytes)
            self._rooms[key][:] = data
        return int(self._rooms[key].ctypes.data)


def pack(weight: NDArray[Any], group: int) -> NDArray[Any]:
    """Return weights ``[in, out]`` in the order in which tiles read them.

    Columns come in blocks of ``WIDE`` vectors, the rest in one of as many as they need; a block
    holds, for each ``group`` of inner rows, its columns, and for each column the group. What is
    missing is zero.
    """
    inner, columns = weight.shape
    room = np.zeros((-(-inner // group) * group, -(-columns // LANES) * LANES), weight.dtype)
    room[:inner, :columns] = weight
    blocks = []
    for start in range(0, room.shape[1], WIDE * LANES):
        block = room[:, start : start + WIDE * LANES]
        block = block.reshape(len(room) // group, group, block.shape[1])
        blocks.append(block.transpose(0, 2, 1).reshape(-1))
    return np.concatenate(blocks)


def padded(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector with zeros behind it, as long as full tiles are wide."""
    room = np.zeros(-(-len(vector) // (WIDE * LANES)) * WIDE * LANES, np.float32)
    room[: len(vector)] = vector
    return room
