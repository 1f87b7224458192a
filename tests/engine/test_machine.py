"""Machine facts come from the files the kernel shows, and nothing missing is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headway.engine import machine_facts, usable_cores


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def cores() -> int:
    return usable_cores(Path("/nonexistent"))


def test_this_machine_can_be_described() -> None:
    facts = machine_facts()
    assert facts.cpu
    assert 1 <= facts.usable_cores <= facts.cores == os.cpu_count()
    assert facts.memory_bytes > 0


def test_an_unknown_machine_has_empty_facts(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path)
    assert facts.vector_features == ()
    assert facts.huge_pages == ""


def test_names_flags_and_memory_are_read(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "model name\t: Fast CPU\nflags\t\t: fpu avx2 fma avx512f sse\n")
    write(tmp_path, "proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n")
    write(tmp_path, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    facts = machine_facts(tmp_path)
    assert facts.cpu == "Fast CPU"
    assert facts.vector_features == ("avx2", "fma", "avx512f")
    assert facts.memory_bytes == 2048 * 1024
    assert facts.huge_pages == "madvise"


@pytest.mark.parametrize(
    ("quota", "granted"),
    [("100000 100000", 1), ("150000 100000", 1), ("10000 100000", 1), ("max 100000", 10**6)],
)
def test_container_of_version_2_limits_cores(
    tmp_path: Path, cores: int, quota: str, granted: int
) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path, "sys/fs/cgroup/outer/cpu.max", quota)
    write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000")
    assert usable_cores(tmp_path) == min(cores, granted)


def test_container_of_version_1_limits_cores_and_memory(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n")
    write(tmp_path, "proc/meminfo", "MemTotal:       999999 kB\n")
    write(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "4096\n")
    assert usable_cores(tmp_path) == 1
    assert machine_facts(tmp_path).memory_bytes == 4096
