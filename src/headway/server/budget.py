"""A budget of bytes that requests may hold at one time."""

from __future__ import annotations

from headway.core import OverloadedError

_RETRY_S = 1.0


class Budget:
    """Counts bytes taken and given back; in one event loop."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, size: int) -> None:
        """Take bytes.

        Raises:
            OverloadedError: if not so many are left; none is taken then.
        """
        if size > self._left:
            raise OverloadedError(
                "overloaded (too many bytes in flight); try again later", _RETRY_S
            )
        self._left -= size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._left += size
