"""Results by what they were made from: nothing is computed twice, and nothing damaged is used."""

from __future__ import annotations

import copy
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from headway.compress.passes import Recipe, Stage
from headway.compress.passes.cut import replace_parameters, state_of
from headway.compress.passes.low_rank import put_module, thin_pair
from headway.core import Ragged, Schema
from headway.data import Dataset
from headway.models import RankingModel

FORMAT_VERSION = 1
_KEPT = "kept/"
Record = TypeVar("Record", bound=msgspec.Struct)


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stored stage is, beside its tensors.

    Attributes:
        thin: linear layers of the original that are pairs of thin ones, and whether with a bias.
        same: tensors that are the original's own, and so are not stored.
    """

    name: str
    schema: Schema
    seconds: float
    facts: dict[str, Any]
    thin: dict[str, bool]
    same: list[str]
    tensors_sha256: str


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A content with its hash, so that damage shows."""

    sha256: str
    content: msgspec.Raw


class Store:
    """A folder of stages and records, each under the hash of all that went into it.

    Files appear whole or not at all. What does not match the hash it carries is made again.
    Several processes may share a folder: the worst is that both make the same thing.
    """

    def __init__(self, folder: Path, original: nn.Module) -> None:
        """Keep results in a folder, which is made if it is not there.

        Args:
            folder: of this store alone.
            original: the model that all stages were made from; stored ones are put together
                from a copy of it, so no code is stored.
        """
        self._folder = folder
        self._original = original
        folder.mkdir(parents=True, exist_ok=True)

    def stage(self, key: str, make: Callable[[], Stage]) -> Stage:
        """Return the stage under a key, made and kept if it is not there undamaged."""
        found = self._read_stage(key)
        if found is None:
            found = make()
            self._write_stage(key, found)
        return found

    def record(self, key: str, kind: type[Record], make: Callable[[], Record]) -> Record:
        """Return the record under a key, made and kept if it is not there undamaged."""
        found = self._read(key, kind)
        if found is None:
            found = make()
            self.write(key, found)
        return found

    def has(self, key: str) -> bool:
        """Tell whether something stands under a key; reading may still find it damaged."""
        return self._path(key).exists()

    def write(self, key: str, record: msgspec.Struct) -> None:
        """Keep a record under a key, in place of an older one."""
        content = msgspec.json.encode(record)
        sealed = _Sealed(sha256=hash_of(content), content=msgspec.Raw(content))
        _write_whole(self._path(key), msgspec.json.encode(sealed))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _read(self, key: str, kind: type[Record]) -> Record | None:
        try:
            sealed = msgspec.json.decode(self._path(key).read_bytes(), type=_Sealed)
            if hash_of(bytes(sealed.content)) != sealed.sha256:
                return None
            return msgspec.json.decode(sealed.content, type=kind)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _write_stage(self, key: str, stage: Stage) -> None:
        own = state_of(self._original)
        tensors = {name: t.detach().contiguous() for name, t in state_of(stage.model).items()}
        same = [name for name, t in tensors.items() if name in own and torch.equal(t, own[name])]
        stored = {name: tensor for name, tensor in tensors.items() if name not in same}
        for name, index in stage.kept.items():
            stored[_KEPT + name] = torch.from_numpy(np.ascontiguousarray(index, np.int64))
        content = save_tensors(stored)
        head = _Head(
            name=stage.name,
            schema=stage.schema,
            seconds=stage.seconds,
            facts=msgspec.to_builtins(dict(stage.facts), enc_hook=_plain),
            thin=_thin_layers(self._original, stage.model),
            same=same,
            tensors_sha256=hash_of(content),
        )
        # The head last: a stage without one is not there.
        _write_whole(self._tensors(key), content)
        self.write(key, head)

    def _read_stage(self, key: str) -> Stage | None:
        head = self._read(key, _Head)
        if head is None:
            return None
        try:
            content = self._tensors(key).read_bytes()
            if hash_of(content) != head.tensors_sha256:
                return None
            tensors = load_tensors(content)
            kept = {
                name.removeprefix(_KEPT): tensors.pop(name).numpy()
                for name in list(tensors)
                if name.startswith(_KEPT)
            }
            model = rebuilt(self._original, head.thin, head.same, tensors, head.schema)
        except (OSError, SafetensorError, KeyError, AttributeError):
            return None
        return Stage(head.name, model, head.schema, head.seconds, head.facts, kept)

    def _tensors(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def rebuilt(
    original: nn.Module,
    thin: Mapping[str, bool],
    same: Sequence[str],
    tensors: Mapping[str, Tensor],
    schema: Schema,
) -> nn.Module:
    """Return the smaller model that tensors belong to, made from a copy of the original.

    Args:
        original: left as it was.
        thin: linear layers that became pairs of thin ones, and whether they have a bias.
        same: parameters and buffers that are the original's.
        tensors: all others, by name.
        schema: of the smaller model.

    Raises:
        KeyError: if a parameter has no tensor.
        AttributeError: if a layer is not there.
    """
    model = copy.deepcopy(original)
    blank = np.zeros((1, 1))
    for name, biased in thin.items():
        put_module(model, name, thin_pair(blank, blank, torch.zeros(1) if biased else None))
    own = state_of(original)
    replace_parameters(model, {**{name: own[name].clone() for name in same}, **tensors})
    if isinstance(model, RankingModel):
        model.schema = schema
    return model.eval()


def key_of(**parts: Any) -> str:
    """Return the key of what these parts determine: 64 hexadecimal digits."""
    whole = {"format": FORMAT_VERSION, **parts}
    return hash_of(msgspec.json.encode(whole, order="deterministic"))


def prefix_parts(recipe: Recipe, name: str) -> dict[str, Any]:
    """Return the settings that decide what a pass and those before it leave."""
    parts = {n: getattr(recipe, n) for n in recipe.before(name).passes}
    if recipe.prune is not None and recipe.prune.rounds > 1:
        parts["tune"] = recipe.distil  # between its rounds pruning trains
    return parts


def hash_of_model(model: nn.Module) -> str:
    """Return what tells a trained model from others: its class, and all it has learnt."""
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    for name, tensor in sorted(state_of(model).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hash_of_rows(dataset: Dataset) -> str:
    """Return what tells rows from others: their schema, features, labels and queries."""
    digest = hashlib.sha256(msgspec.json.encode(dataset.schema))
    arrays: dict[str, NDArray[Any]] = {"labels": dataset.labels, "queries": dataset.row_to_query}
    for part, columns in (("q", dataset.context), ("c", dataset.candidates)):
        for name, column in columns.items():
            ragged = isinstance(column, Ragged)
            arrays[f"{part} {name}"] = column.values if isinstance(column, Ragged) else column
            if isinstance(column, Ragged):
                arrays[f"{part} {name} offsets"] = column.offsets
            digest.update(f"{part} {name} {ragged}".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def hash_of(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _thin_layers(original: nn.Module, model: nn.Module) -> dict[str, bool]:
    """Return the linear layers that became pairs, and whether the second has a bias."""
    layers = dict(model.named_modules())
    found = {}
    for name, module in original.named_modules():
        now = layers.get(name)
        if isinstance(module, nn.Linear) and isinstance(now, nn.Sequential):
            found[name] = "bias" in dict(module.named_parameters(recurse=False))
    return found


def _plain(value: Any) -> Any:
    """Give numpy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with work.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
