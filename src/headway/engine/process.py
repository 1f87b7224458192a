"""A runner in a process of its own, for engines that hold the GIL while they compute.

The parent talks to the child over a socket pair. A message is a 16-byte prefix (lengths of head
and body), a head in MessagePack, and a body: arrays in the order the head names them, each
padded to 8 bytes. Nothing is pickled.

This module is started as a program in the child, so the room's front door does not import it.
"""

from __future__ import annotations

import importlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import Column, Columns, HeadwayError, Hidden, Piece, Ragged, Runner, slice_columns

_PREFIX = struct.Struct("<QQ")
_ALIGN = 8
_STOP_S = 5.0
_BUFFER_BYTES = 1 << 20
_Names = list[tuple[str, bool]]


class _Start(msgspec.Struct, tag="start"):
    factory: str
    argument: str
    path: list[str]


class _Ready(msgspec.Struct, tag="ready"):
    pass


class _Work(msgspec.Struct, tag="work"):
    """``contexts`` and ``pieces`` name columns; True marks a ragged one, which is two arrays."""

    tasks: int
    contexts: list[_Names]
    pieces: list[tuple[int, int, _Names]]  # index of its context, rows, columns


class _Done(msgspec.Struct, tag="done"):
    pass


class _Failed(msgspec.Struct, tag="failed"):
    message: str


_Message = _Start | _Ready | _Work | _Done | _Failed


class _Head(msgspec.Struct):
    message: _Message
    arrays: list[tuple[str, tuple[int, ...]]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Head).decode


class ProcessRunner:
    """Implements ``core.Runner``; the caller waits for the child with the GIL released."""

    def __init__(self, *, factory: str, argument: str = "", startup_s: float = 120.0) -> None:
        """Start the child and wait until its runner stands.

        Args:
            factory: ``package.module:function``; called in the child with ``argument``, it
                returns the runner.
            argument: whatever the factory understands, such as a path or JSON.
            startup_s: how long the child may take to get ready.

        Raises:
            HeadwayError: if the child fails or is not ready in time.
        """
        self._socket, theirs = socket.socketpair()
        with theirs:
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            number = theirs.fileno()
            # Its own session: an interrupt typed at the terminal is for the parent to act on.
            self._child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "headway.engine.process", str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._name = factory
        try:
            self._socket.settimeout(startup_s)
            self._exchange(_Start(factory, argument, sys.path), [])
            self._socket.settimeout(None)
        except BaseException:
            self.close()
            raise

    def query(self, context: Columns) -> Hidden:
        """Keep the context; it travels with the candidates."""
        return context

    def candidates(self, pieces: Sequence[Piece]) -> None:
        """Have the child score the pieces.

        Raises:
            HeadwayError: with the child's message, or if the child has ended.
        """
        pieces = [piece for piece in pieces if piece.stop > piece.start]
        if not pieces:
            return
        arrays: list[NDArray[Any]] = []
        order: dict[int, int] = {}
        work = _Work(tasks=pieces[0].out.shape[1], contexts=[], pieces=[])
        for piece in pieces:
            if id(piece.hidden) not in order:
                order[id(piece.hidden)] = len(work.contexts)
                work.contexts.append(_flatten(piece.hidden, arrays))  # type: ignore[arg-type]
            columns = slice_columns(piece.candidates, piece.start, piece.stop)
            names = _flatten(columns, arrays)
            work.pieces.append((order[id(piece.hidden)], piece.stop - piece.start, names))
        outputs = self._exchange(work, arrays)
        for piece, output in zip(pieces, outputs, strict=True):
            piece.out[piece.start : piece.stop] = output

    def close(self) -> None:
        """End the child; harmless when repeated."""
        self._socket.close()
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _exchange(self, message: _Message, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            _send(self._socket, message, arrays)
            answer, values = _receive(self._socket)
        except TimeoutError as error:
            raise HeadwayError(f"the process for {self._name} was not ready in time") from error
        except (OSError, EOFError) as error:
            self.close()
            raise HeadwayError(
                f"the process for {self._name} has ended with exit code {self._child.returncode}; "
                "start a new runner"
            ) from error
        if isinstance(answer, _Failed):
            raise HeadwayError(f"{self._name}: {answer.message}")
        return values


def _flatten(columns: Columns, arrays: list[NDArray[Any]]) -> _Names:
    names: _Names = []
    for name, column in columns.items():
        ragged = isinstance(column, Ragged)
        names.append((name, ragged))
        arrays += [column.values, column.offsets] if isinstance(column, Ragged) else [column]
    return names


def _unflatten(names: _Names, arrays: Iterator[NDArray[Any]]) -> dict[str, Column]:
    return {
        name: Ragged(next(arrays), next(arrays)) if ragged else next(arrays)
        for name, ragged in names
    }


def _send(end: socket.socket, message: _Message, arrays: list[NDArray[Any]]) -> None:
    plain = [np.ascontiguousarray(array) for array in arrays]
    head = _encode(_Head(message, [(a.dtype.str, a.shape) for a in plain]))
    parts: list[bytes | memoryview] = [b"", head]
    total = 0
    for array in plain:
        parts += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _ALIGN)]
        total += array.nbytes + -array.nbytes % _ALIGN
    parts[0] = _PREFIX.pack(len(head), total)
    end.sendall(b"".join(parts))


def _receive(end: socket.socket) -> tuple[_Message, list[NDArray[Any]]]:
    """Return the next message and its arrays.

    Raises:
        EOFError: if the other side has closed.
    """
    head_bytes, total = _PREFIX.unpack(_read(end, _PREFIX.size).tobytes())
    head = _decode(_read(end, head_bytes).data)
    body = _read(end, total)
    arrays: list[NDArray[Any]] = []
    at = 0
    for kind, shape in head.arrays:
        array = np.ndarray(shape, np.dtype(kind), body.data, at)
        arrays.append(array)
        at += array.nbytes + -array.nbytes % _ALIGN
    return head.message, arrays


def _read(end: socket.socket, count: int) -> NDArray[np.uint8]:
    data = np.empty(count, np.uint8)
    view, done = data.data, 0
    while done < count:
        got = end.recv_into(view[done:])
        if not got:
            raise EOFError
        done += got
    return data


def _run_child(end: socket.socket) -> None:
    """Serve one parent until it goes."""
    start, _ = _receive(end)
    assert isinstance(start, _Start)
    sys.path[:] = start.path
    try:
        module, _, function = start.factory.partition(":")
        make: Callable[[str], Runner] = getattr(importlib.import_module(module), function)
        runner = make(start.argument)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent shall hear of it
        _send(end, _Failed(_told(error)), [])
        return
    _send(end, _Ready(), [])
    while True:
        work, arrays = _receive(end)
        assert isinstance(work, _Work)
        try:
            outputs = _compute(runner, work, iter(arrays))
        except Exception as error:  # noqa: BLE001
            _send(end, _Failed(_told(error)), [])
        else:
            _send(end, _Done(), outputs)


def _compute(
    runner: Runner, work: _Work, arrays: Iterator[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    hidden: list[Hidden] = []
    pieces: list[Piece] = []
    for query, rows, names in work.pieces:
        if query == len(hidden):
            hidden.append(runner.query(_unflatten(work.contexts[query], arrays)))
        out = np.empty((rows, work.tasks), np.float32)
        pieces.append(Piece(hidden[query], _unflatten(names, arrays), 0, rows, out))
    runner.candidates(pieces)
    return [piece.out for piece in pieces]


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, HeadwayError) else f"{type(error).__name__}: {error}"


def main(descriptor: int) -> None:
    """Be the child: serve the parent at the other end of ``descriptor``."""
    with socket.socket(fileno=descriptor) as end:
        try:
            _run_child(end)
        except (EOFError, ConnectionError):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
