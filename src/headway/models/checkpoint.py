"""A trained model on disk, in files that can be read without running code."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from headway.core import DataError, Schema, UsageError
from headway.models.build import ModelSettings, build_model
from headway.models.layers import RankingModel

FORMAT_VERSION = 1
_HEAD, _WEIGHTS, _TRANSFORMS = "model.json", "weights.safetensors", "transforms.json"
_KNOWN = {_HEAD, _WEIGHTS, _TRANSFORMS}
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained model with all that is needed to optimise it.

    Attributes:
        model: in evaluation mode.
        settings: what it was built from.
        schema: its features, tables and tasks.
        transforms_json: the fitted transforms, or None where features come encoded.
        facts: how it was trained and how well it did; plain values for people.
    """

    model: RankingModel
    settings: ModelSettings
    schema: Schema
    transforms_json: bytes | None
    facts: dict[str, str]


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    settings: ModelSettings
    schema: Schema
    facts: dict[str, str]
    hashes: dict[str, Sha256]


def save_checkpoint(
    path: Path,
    model: RankingModel,
    settings: ModelSettings,
    schema: Schema,
    transforms_json: bytes | None,
    facts: dict[str, str],
) -> None:
    """Write a checkpoint directory; it appears whole or not at all.

    A checkpoint that stands there is replaced.

    Raises:
        UsageError: if ``path`` holds anything else, or lies under a file.
    """
    _refuse_foreign(path)
    weights = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
    files = {_WEIGHTS: save_tensors(weights)}
    if transforms_json is not None:
        files[_TRANSFORMS] = transforms_json
    head = _Head(
        format_version=FORMAT_VERSION,
        settings=settings,
        schema=schema,
        facts=facts,
        hashes={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    files[_HEAD] = msgspec.json.format(msgspec.json.encode(head))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path} lies under a file; choose another directory") from error
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory and build its model.

    Raises:
        UsageError: if there is no checkpoint at ``path`` or this version cannot read it.
        DataError: if a file is missing, damaged, or does not fit the others.
    """
    head = _read_head(path)
    weights = _read(path, _WEIGHTS, head)
    transforms = _read(path, _TRANSFORMS, head) if _TRANSFORMS in head.hashes else None
    _check_size(path / _WEIGHTS, len(weights), head.schema)
    model = build_model(head.settings, head.schema)
    try:
        tensors: dict[str, torch.Tensor] = load_tensors(weights)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path / _WEIGHTS} does not fit {_HEAD}: {error}") from error
    model.eval()
    return Checkpoint(model, head.settings, head.schema, transforms, head.facts)


def _read_head(path: Path) -> _Head:
    file = path / _HEAD
    if not file.is_file():
        raise UsageError(f"no checkpoint at {path}: it has no {_HEAD}; run headway train first")
    try:
        version = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
        if bytes(version.get("format_version", msgspec.Raw(b""))) != str(FORMAT_VERSION).encode():
            raise UsageError(
                f"{file} is not of format {FORMAT_VERSION}, which this version of Headway "
                "reads; train the model again"
            )
        return msgspec.json.decode(file.read_bytes(), type=_Head)
    except msgspec.DecodeError as error:
        raise DataError(f"{file} is damaged: {error}; train the model again") from error


def _read(path: Path, name: str, head: _Head) -> bytes:
    file = path / name
    if not file.is_file():
        raise DataError(f"the checkpoint {path} has lost its {name}; train the model again")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != head.hashes.get(name):
        raise DataError(f"{file} is not the file that {_HEAD} was written with; train again")
    return content


def _check_size(file: Path, size: int, schema: Schema) -> None:
    """Refuse a head that asks for far more memory than its weights can fill."""
    needed = sum(table.rows * table.dim for table in schema.tables) * 4  # float32
    if size < needed:
        raise DataError(
            f"{file} does not fit {_HEAD}: its {size:,} bytes cannot hold the schema's tables, "
            f"which take {needed:,}; train the model again"
        )


def _refuse_foreign(path: Path) -> None:
    if path.is_dir() and {p.name for p in path.iterdir()} <= _KNOWN:
        return
    if path.exists():
        raise UsageError(
            f"{path} holds something that is not a checkpoint; choose another directory"
        )
