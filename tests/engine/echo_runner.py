"""A runner without any engine, for tests of what lies between processes."""

from __future__ import annotations

from collections.abc import Sequence

from headway.core import Columns, Hidden, Piece, QueryError, Ragged, Runner


class EchoRunner:
    """Answers a query's dense ``bias`` plus each candidate's ``value``."""

    def query(self, context: Columns) -> Hidden:
        return context["bias"]

    def candidates(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            values = piece.candidates["value"]
            assert not isinstance(values, Ragged)
            if (values < 0).any():
                raise QueryError("a value is negative")
            piece.out[piece.start : piece.stop] = values[piece.start : piece.stop] + piece.hidden

    def close(self) -> None:
        pass


def make(argument: str) -> Runner:
    return EchoRunner()


def make_broken(argument: str) -> Runner:
    raise ValueError(f"no such model: {argument}")
