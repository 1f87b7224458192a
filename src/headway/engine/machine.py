"""What this machine has: processor, cores that may be used, vector units, memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec

_VECTOR_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_ROOT = Path("/")


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine as far as it matters for speed.

    Attributes:
        cpu: the processor's name.
        architecture: such as ``x86_64`` or ``arm64``.
        system: such as ``Linux 6.1``.
        cores: cores the system has.
        usable_cores: cores this process may use, by affinity and container limits.
        vector_features: vector instruction sets that kernels gain from.
        memory_bytes: memory of the machine, or of the container if that is less; 0 if unknown.
        huge_pages: the kernel's setting for large pages, or empty where there is none.
    """

    cpu: str
    architecture: str
    system: str
    cores: int
    usable_cores: int
    vector_features: tuple[str, ...]
    memory_bytes: int
    huge_pages: str


def machine_facts(root: Path = _ROOT) -> MachineFacts:
    """Read the facts; what cannot be read is left empty, nothing fails.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split())
    name = _field(cpuinfo, "model name") or _sysctl("machdep.cpu.brand_string")
    return MachineFacts(
        cpu=name or platform.processor() or "unknown",
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(root),
        vector_features=tuple(flag for flag in _VECTOR_FLAGS if flag in flags),
        memory_bytes=_memory_bytes(root),
        huge_pages=_chosen(_read(root / "sys/kernel/mm/transparent_hugepage/enabled")),
    )


@cache
def saturates_int8() -> bool:
    """Whether sums of int8 products can overflow here: an x86 processor without VNNI."""
    facts = machine_facts()
    x86 = facts.architecture in {"x86_64", "AMD64"}
    return x86 and not {"avx512_vnni", "avx_vnni"} & set(facts.vector_features)


def usable_cores(root: Path = _ROOT) -> int:
    """Return how many cores this process can keep busy, at least 1.

    The least of the cores it may be scheduled on and the CPU time its control groups grant; a
    share of a core is left unused, since using it would mean being stopped in the midst of work.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    if sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _control_groups(root, "cpu")]
    return max(1, min([allowed, *(int(q) for q in quotas if q is not None)]))


def _control_groups(root: Path, controller: str) -> list[Path]:
    """Return the folders whose limits bind this process, its own group and those above."""
    folders: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        base = root / "sys/fs/cgroup"
        base = base / controller if names else base
        inner = base / path.lstrip("/")
        folders += [inner, *(p for p in inner.parents if p.is_relative_to(base))]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the cores a control group grants, of version 2 or 1."""
    words = _read(folder / "cpu.max").split()
    if len(words) != 2:
        words = [
            _read(folder / "cpu.cfs_quota_us").strip(),
            _read(folder / "cpu.cfs_period_us").strip(),
        ]
    if not (words[0].isdigit() and words[1].isdigit() and int(words[1])):
        return None  # "max" or -1: no limit
    return int(words[0]) / int(words[1])


def _memory_bytes(root: Path) -> int:
    kilobytes = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    total = int(kilobytes[1]) * 1024 if kilobytes else int(_sysctl("hw.memsize") or 0)
    limits = [total] if total else []
    for folder in _control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            limits += [int(text)] if text.isdigit() else []
    return min(limits, default=0)


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def _chosen(text: str) -> str:
    """Return the bracketed word of a kernel setting such as ``always [madvise] never``."""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip()
