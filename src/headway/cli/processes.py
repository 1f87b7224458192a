"""Headway's own commands in processes of their own, as a user would start them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from headway.cli.inspecting import Validation
from headway.cli.serving import Ready
from headway.core import HeadwayError

_STOP_S = 20.0
# What `headway` runs, under this very interpreter, wherever the script was installed.
_COMMAND = (sys.executable, "-c", "from headway.cli import main; main()")


class ServerProcess:
    """``headway serve PATH --port 0`` until the context ends.

    Attributes:
        ready: what the server said when it was.
    """

    ready: Ready

    def __init__(self, path: Path, options: Sequence[str] = ()) -> None:
        self._path = path
        # A file, not a pipe: nobody reads while the server runs, and a full pipe would stop it.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the server has ended
        self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [*_COMMAND, "serve", str(path), "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> ServerProcess:
        """Wait until the server accepts connections.

        Raises:
            HeadwayError: with its own words, if it does not come up.
        """
        try:
            self.ready = msgspec.json.decode(self._first_object(), type=Ready)
        except msgspec.DecodeError:
            self._process.kill()
            self._process.communicate()
            self._log.seek(0)
            said = self._log.read()
            self._log.close()
            raise HeadwayError(
                f"the server of {self._path} did not start: {said.strip()[-2000:]}"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def _first_object(self) -> str:
        """Return the lines up to the closing brace of the first JSON object."""
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            if line.rstrip() == "}":
                break
        return "".join(lines)


def validate_apart(path: Path) -> Validation:
    """Load the bundle at ``path`` in a fresh process and return what that showed.

    Raises:
        HeadwayError: with the process's own words, if the bundle was refused.
    """
    done = subprocess.run(  # noqa: S603 - our own command, no shell
        [*_COMMAND, "validate", str(path), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HeadwayError(done.stderr.strip().removeprefix("headway: "))
    return msgspec.json.decode(done.stdout, type=Validation)
