"""Strict YAML into frozen settings: a wrong key names its path and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from headway.core import ConfigError

_MAX_BYTES = 1 << 20
_SHOWN = 60
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `(?P<path>[^`]*)`)?")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+|\.\.\.)\]")

T = TypeVar("T")


class _StrictLoader(yaml.SafeLoader):
    """Plain data only: no aliases (a small file could mean a huge one), no duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ConfigError(f"line {mark.line + 1}: aliases (*name) are not read; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key_node.value!r} stands twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# 1e6 is a number in YAML 1.2 and in JSON; this reader's YAML 1.1 wants 1.0e+6.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path, kind: type[T]) -> T:
    """Return the file's content as an instance of the settings struct ``kind``.

    Raises:
        ConfigError: if the file is missing, too large, not YAML, or does not fit ``kind``; the
            message names the file and the path of the key.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"the config {path} has {len(raw)} bytes; the limit is {_MAX_BYTES}")
    try:
        content = yaml.load(raw, _StrictLoader)  # noqa: S506 - a SafeLoader made stricter
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML that can be read: {first}") from error
    return convert(content, kind, str(path))


def convert(content: object, kind: type[T], source: str) -> T:
    """Return decoded YAML or JSON as ``kind``.

    Raises:
        ConfigError: naming ``source``, the path of the wrong key and the nearest valid one.
    """
    try:
        return msgspec.convert(content, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), content, kind)}") from error


def _explain(message: str, content: object, kind: type) -> str:
    match = _UNKNOWN.search(message)
    if match is None:
        told = message.replace("`$.", "`").replace(" - at `$`", "") + _given(message, content)
        return told + _choices(message, content, kind)
    key, path = match["key"], match["path"] or "$"
    place = path.removeprefix("$").lstrip(".") or "the top level"
    fields = _fields_at(msgspec.inspect.type_info(kind), content, _STEP.findall(path), key)
    valid = [field.encode_name for field in fields]
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(sorted(valid))}"
    return f"unknown key {key!r} at {place}; {hint}"


def _choices(message: str, content: object, kind: type) -> str:
    """Return what may stand at the place of a word that may not."""
    place = re.search(r"Invalid (?:enum )?value .* - at `\$(?P<path>[^`]+)`", message)
    if place is None:
        return ""
    info, (*steps, (name, _)) = msgspec.inspect.type_info(kind), _STEP.findall(place["path"])
    words = [
        getattr(field.type, "values", ())
        for field in _fields_at(info, content, steps, "")
        if field.encode_name == name
    ]
    if not words and steps:  # it tells which of several structs is meant
        owners = _fields_at(info, content, steps[:-1], "")
        kinds = [f.type for f in owners if f.encode_name == steps[-1][0]]
        tags = [s for k in kinds for s in getattr(k, "types", ()) if getattr(s, "tag", None)]
        words = [tuple(struct.tag for struct in tags if struct.tag_field == name)]
    return f"; choose from {', '.join(map(str, words[0]))}" if words and words[0] else ""


def _given(message: str, content: Any) -> str:
    """Return what stands at the place that the message names, where it names one exactly."""
    place = re.search(r" - at `\$(?P<path>[^`]+)`", message)
    for name, index in _STEP.findall(place["path"]) if place else ():
        if isinstance(content, dict) and name in content:
            content = content[name]
        elif isinstance(content, list) and index.isdigit():
            content = content[int(index)]
        else:
            return ""
    plain = content is None or isinstance(content, str | int | float)
    return f": {str(content)[:_SHOWN]!r}" if plain and place else ""


def _fields_at(info: Any, content: Any, steps: list[tuple[str, str]], key: str) -> list[Any]:
    """Walk types and content side by side; where a list index is hidden, take the item at fault."""
    info = _pick(info, content)
    if not steps:
        return list(getattr(info, "fields", ()))
    (name, index), rest = steps[0], steps[1:]
    if name and isinstance(info, msgspec.inspect.StructType):
        field = next((f for f in info.fields if f.encode_name == name), None)
        inner = content.get(name) if isinstance(content, dict) else None
        return _fields_at(field.type, inner, rest, key) if field else []
    if isinstance(info, msgspec.inspect.DictType):
        values = list(content.values()) if isinstance(content, dict) else []
        return _first_with(info.value_type, values, rest, key)
    item = getattr(info, "item_type", None)
    values = content if isinstance(content, list) else []
    if index.isdigit():
        values = values[int(index) : int(index) + 1]
    return _first_with(item, values, rest, key) if item is not None else []


def _first_with(info: Any, values: list[Any], steps: list[tuple[str, str]], key: str) -> list[Any]:
    for value in values:
        if not steps and isinstance(value, dict) and key not in value:
            continue
        found = _fields_at(info, value, steps, key)
        if found:
            return found
    return []


def _pick(info: Any, content: Any) -> Any:
    """Of a union, return the struct that the content's tag names, or the only struct."""
    if not isinstance(info, msgspec.inspect.UnionType):
        return info
    structs = [t for t in info.types if isinstance(t, msgspec.inspect.StructType)]
    for struct in structs:
        tag = content.get(struct.tag_field) if isinstance(content, dict) else None
        if tag is not None and tag == struct.tag:
            return struct
    return structs[0] if structs else info.types[0]
