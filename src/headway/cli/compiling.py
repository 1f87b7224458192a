"""``headway compile``: an ONNX model and a schema become a bundle, without data."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from headway.cli.terminal import Terminal, size
from headway.cli.yaml_file import read_yaml
from headway.compress import CompileReport, Precision, compile_model
from headway.core import ConfigError, Schema, UsageError
from headway.graph import import_onnx

_PADDING = re.compile(r"^padding: ")


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What ``headway compile`` did; errors are shares of the outputs' spread.

    Attributes:
        report: the bundle, its sizes, and how far it is from the model.
        precision: what was asked for.
        guard: always ``none``: without labelled rows nothing can judge.
        imported: what was found in the ONNX file, as sentences.
    """

    report: CompileReport
    precision: str
    guard: str = "none"
    imported: list[str]


def read_schema(path: Path) -> Schema:
    """Return the schema that a YAML file holds: ``features``, ``tables`` and ``tasks``.

    Raises:
        ConfigError: naming the file, and the key or what contradicts itself.
    """
    try:
        return read_yaml(path, Schema)
    except ConfigError:
        raise
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from error


def compile_onnx(
    model: Path, schema: Path, out: Path, precision: Precision, terminal: Terminal
) -> None:
    """Write the bundle and print what it is.

    Raises:
        ConfigError: if the schema cannot be read.
        CaptureError: if the model cannot be read or captured.
    """
    declared = read_schema(schema)
    with terminal.step(f"reading {model}"):
        imported = import_onnx(model, declared)
    for note in imported.notes:
        if _PADDING.match(note):
            terminal.say(_PADDING.sub("note: ", note))
    with terminal.step("compiling") as step:
        report = compile_model(
            imported.model,
            declared,
            out,
            precision,
            overwrite=True,
            progress=lambda what, done, total: step.at(done, total, what),
        )
    _show(report, terminal)
    terminal.object(Compiled(report=report, precision=precision, imported=list(imported.notes)))


def _show(report: CompileReport, terminal: Terminal) -> None:
    rows = [
        ("composition", report.composition),
        ("size", f"{size(report.original_bytes)} -> {size(report.size_bytes)}"),
        ("f32 against the model", f"{report.equality:.2g} of the outputs' spread at most"),
    ]
    if report.max_error:
        rows += [
            ("against f32", f"{report.max_error:.2g} of the outputs' spread at most"),
            ("", f"{report.mean_error:.2g} root mean square, on generated rows"),
        ]
    rows.append(("guard", "none: no labelled rows; headway optimize CONFIG judges"))
    terminal.table(f"{report.name}  {report.bundle}", ("", ""), rows)
    for note in report.notes:
        terminal.say(note)
