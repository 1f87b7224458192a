"""Options that benchmark scripts share, refused before anything is run in vain."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def count(least: int = 1) -> Callable[[str], int]:
    """Return a reader of whole numbers that are not smaller."""

    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise ArgumentTypeError(f"a whole number of at least {least} is needed, not {text!r}")
        return number

    return whole


def amount(least: float = 0.0, most: float = 1e9) -> Callable[[str], float]:
    """Return a reader of numbers within bounds."""

    def number(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = float("nan")
        if not least <= found <= most:
            raise ArgumentTypeError(f"a number of {least:g} to {most:g} is needed, not {text!r}")
        return found

    return number


def result_file(text: str) -> Path:
    """Read where figures are to be written: no folder, but a new file or one to replace."""
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{text} is a folder; name a file in it")
    return path


def existing_folder(text: str) -> Path:
    """Read the place of a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise ArgumentTypeError(f"there is no folder {text}")
    return path


def profiles(text: str) -> Path:
    """Read the place of what ``eager_profiles.py`` wrote."""
    path = Path(text)
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(f"cannot read {text}: {error}") from error
    if not isinstance(told, dict) or not {"models", "percentiles"} <= set(told):
        raise ArgumentTypeError(f"{text} is not what eager_profiles.py --json writes")
    return path
