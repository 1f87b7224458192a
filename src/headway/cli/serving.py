"""``headway serve``: a bundle, or a checkpoint as the unoptimised baseline."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from headway.cli.terminal import Terminal
from headway.core import Ns, Plan, Runner, Schema, UsageError
from headway.data import Transforms
from headway.engine import usable_cores
from headway.server import ServedModel, ServerSettings, load_served, run_server


@dataclass(frozen=True, slots=True)
class PlanChanges:
    """What the command line sets in place of the bundle's own plan; None leaves it alone.

    A ``file`` of a whole plan, as JSON, comes first; the rest changes that one.
    """

    workers: int | None = None
    split_size: int | None = None
    batch_candidates: int | None = None
    policy: Literal["fixed", "adaptive"] | None = None
    target_ns: Ns | None = None
    refuse_late: bool | None = None
    file: Path | None = None

    def apply(self, plan: Plan) -> Plan:
        """Return the plan with the changes made.

        Raises:
            UsageError: if the file holds no plan.
        """
        if self.file is not None:
            plan = read_plan(self.file)
        names = [f for f in self.__slots__ if f != "file" and getattr(self, f) is not None]
        return msgspec.structs.replace(plan, **{f: getattr(self, f) for f in names})


def read_plan(path: Path) -> Plan:
    """Return the plan in a JSON file.

    Raises:
        UsageError: naming the key that is off.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no plan: {error}") from error


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Printed as JSON once the server accepts connections.

    Attributes:
        url: where it listens.
        model: the name to ask for.
        engine: ``compiled`` for a bundle, ``torch eager`` for a checkpoint.
        torch_loaded: whether this process has imported torch.
    """

    url: str
    model: str
    engine: str
    torch_loaded: bool


def serve(
    path: Path,
    name: str | None,
    changes: PlanChanges,
    settings: ServerSettings,
    terminal: Terminal,
    lighter: Path | None = None,
) -> None:
    """Serve what stands at ``path`` until told to stop.

    Args:
        path: a bundle or a checkpoint.
        name: to serve it under.
        changes: of the bundle's plan.
        settings: of the server.
        terminal: where it is told that the server is ready.
        lighter: a bundle that answers what would be late else.

    Raises:
        UsageError: if there is neither a bundle nor a checkpoint, or the lighter bundle takes
            other queries.
    """
    if (path / "manifest.json").exists():
        engine, model = "compiled", load_served(path, name=name)
        model = _with_plan(model, changes)
    elif (path / "model.json").exists():
        engine, model = "torch eager", baseline(path, name, changes)
    else:
        raise UsageError(
            f"{path} holds neither a bundle (manifest.json) nor a checkpoint (model.json)"
        )
    if lighter is not None:
        model = with_lighter(model, lighter, changes)
        if not _passed(model.lighter):
            terminal.say(f"{lighter} passed no guard: how much worse it scores is not known")

    def on_ready(url: str) -> None:
        loaded = "torch" in sys.modules
        terminal.object(Ready(url=url, model=model.name, engine=engine, torch_loaded=loaded))
        terminal.result(f"{model.name} ({engine}) at {url}, stop with Ctrl-C")

    run_server([model], settings, on_ready)


def baseline(path: Path, name: str | None, changes: PlanChanges) -> ServedModel:
    """Return a checkpoint served by torch eager: one process per core, whole queries.

    Torch holds the interpreter's lock while it computes, so threads would not do it justice.
    """
    from headway.engine.process import ProcessRunner

    head = _Head.read(path)
    transforms = path / "transforms.json"
    plan = changes.apply(Plan(workers=usable_cores(), split_size=1_000_000))

    def new_runner() -> Runner:
        return ProcessRunner(
            factory="headway.cli.baseline:eager_runner", argument=str(path.resolve())
        )

    return ServedModel(
        name=name or "baseline",
        schema=head.schema,
        plan=plan,
        new_runner=new_runner,
        transforms=Transforms.from_json(transforms.read_bytes()) if transforms.exists() else None,
    )


def with_lighter(model: ServedModel, lighter: Path, changes: PlanChanges) -> ServedModel:
    """Return the model with a bundle to turn to, and the policy that does.

    Raises:
        UsageError: if it takes other queries, or a policy is wanted that never turns to it.
        BundleError: if anything about the bundle is off.
    """
    if changes.policy == "fixed":
        raise UsageError("--lighter needs the adaptive policy; leave --policy fixed out")
    plan = msgspec.structs.replace(model.plan, policy="adaptive")
    return replace(model, plan=plan, lighter=load_served(lighter))


def _passed(model: ServedModel | None) -> bool:
    manifest = None if model is None else model.manifest
    return manifest is not None and manifest.guard is not None and manifest.guard.verdict == "pass"


def _with_plan(model: ServedModel, changes: PlanChanges) -> ServedModel:
    plan, cores = model.plan, usable_cores()
    # A plan with service times was tuned, its workers too; any other leaves them to the machine.
    workers = min(plan.workers, cores) if plan.service else cores
    plan = msgspec.structs.replace(plan, workers=workers)
    return replace(model, plan=changes.apply(plan))


class _Head(msgspec.Struct):
    """The part of a checkpoint's model.json that serving needs, read without torch."""

    schema: Schema

    @classmethod
    def read(cls, path: Path) -> _Head:
        """Return the head of the checkpoint at ``path``."""
        try:
            return msgspec.json.decode((path / "model.json").read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise UsageError(f"{path / 'model.json'} is damaged: {error}") from error
