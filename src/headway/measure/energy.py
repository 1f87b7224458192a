"""Energy used between two moments: of processors through RAPL, of GPUs through NVML."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from headway.core import HeadwayError, Ns, to_seconds

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the energy counters of processors."""


class NotReadableError(HeadwayError):
    """A counter of energy is not there or may not be read; the message says why."""


class EnergyMeter(Protocol):
    """Counts the energy that one kind of device uses."""

    def joules(self) -> float:
        """Return the energy used since the meter was made.

        Raises:
            NotReadableError: if the counter can no longer be read.
        """
        ...


class EnergyUse(msgspec.Struct, frozen=True, kw_only=True):
    """What was used between two moments.

    Attributes:
        seconds: between them.
        joules: by device, ``cpu`` or ``gpu``; those that could be read. It is that of all
            processors or GPUs of the machine, whatever ran on them.
        unread: by device, why it could not be read.
    """

    seconds: float
    joules: dict[str, float]
    unread: dict[str, str]

    @property
    def watts(self) -> float | None:
        """Mean power of all that could be read; None without any, or without time."""
        if not self.joules or self.seconds <= 0:
            return None
        return sum(self.joules.values()) / self.seconds

    def queries_per_joule(self, qps: float) -> float | None:
        """Return how many queries one joule answers, at a rate in queries/s; None if unknown."""
        watts = self.watts
        return qps / watts if watts else None


class RaplMeter:
    """Processors of Intel and AMD: their packages, and memory where it has a counter.

    Running Average Power Limit counters as Linux shows them (kernel documentation, "Power
    Capping Framework"). They count microjoules and begin at 0 again after some minutes to an
    hour of load, so ``joules`` has to be called at least that often; a counter that went down
    has begun again once. Cores and graphics are parts of a package and not added to it, nor is
    ``psys``, which holds the packages.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        """Find the counters and read them for the first time.

        Raises:
            NotReadableError: if there is none, or it may not be read.
        """
        self._zones = [z for z in sorted(root.glob("intel-rapl:*")) if _counts(z)]
        if not self._zones:
            raise NotReadableError(f"no counter of a processor's energy in {root}")
        self._ranges = [_number(z / "max_energy_range_uj") for z in self._zones]
        self._last = self._read()
        self._used = 0

    def joules(self) -> float:
        """Return the energy used since the meter was made; see ``EnergyMeter``."""
        now = self._read()
        for before, after, size in zip(self._last, now, self._ranges, strict=True):
            self._used += after - before if after >= before else after - before + size
        self._last = now
        return self._used / 1e6

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


class NvmlMeter:
    """All GPUs of NVIDIA in the machine, from Volta on.

    Counts millijoules since the driver was loaded (NVML API reference,
    ``nvmlDeviceGetTotalEnergyConsumption``).
    """

    def __init__(self, nvml: Any) -> None:
        """Read the counters for the first time.

        Args:
            nvml: the module ``pynvml``, or what behaves like it.

        Raises:
            NotReadableError: if there is no GPU or its counter cannot be read.
        """
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
            self._devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except nvml.NVMLError as error:
            raise NotReadableError(f"NVML: {error}") from error
        if not self._devices:
            raise NotReadableError("NVML finds no GPU")
        self._first = self._read()

    def joules(self) -> float:
        """Return the energy used since the meter was made; see ``EnergyMeter``."""
        return (self._read() - self._first) / 1e3

    def _read(self) -> int:
        ask = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        try:
            return sum(int(ask(device)) for device in self._devices)
        except self._nvml.NVMLError as error:
            raise NotReadableError(f"NVML: {error}") from error


class EnergyMeters:
    """All meters of a machine; those that cannot be read are named with the reason."""

    def __init__(self, meters: Mapping[str, EnergyMeter], unread: Mapping[str, str]) -> None:
        self._meters = dict(meters)
        self._unread = dict(unread)

    def used(self, lasted: Ns) -> EnergyUse:
        """Return what was used since the meters were made.

        Args:
            lasted: how long that is.
        """
        joules: dict[str, float] = {}
        unread = dict(self._unread)
        for name, meter in self._meters.items():
            try:
                joules[name] = meter.joules()
            except NotReadableError as error:
                unread[name] = str(error)
        return EnergyUse(seconds=to_seconds(lasted), joules=joules, unread=unread)


def open_meters(root: Path = POWERCAP, nvml: Any = None) -> EnergyMeters:
    """Return the meters of this machine, which begin to count now.

    Args:
        root: folder of Linux' power capping framework.
        nvml: the module ``pynvml``; imported if None.
    """
    meters: dict[str, EnergyMeter] = {}
    unread: dict[str, str] = {}
    for name, make in (("cpu", lambda: RaplMeter(root)), ("gpu", lambda: NvmlMeter(_nvml(nvml)))):
        try:
            meters[name] = make()
        except NotReadableError as error:
            unread[name] = str(error)
    return EnergyMeters(meters, unread)


def _nvml(given: Any) -> Any:
    if given is not None:
        return given
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise NotReadableError(
            "the package pynvml is not installed; pip install nvidia-ml-py"
        ) from error


def _counts(zone: Path) -> bool:
    """Return whether a zone is a package, or memory, which no package holds."""
    try:
        name = (zone / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError as error:
        raise NotReadableError(
            f"{path} may not be read; run as root, or let an administrator allow it"
        ) from error
    except (OSError, ValueError) as error:
        raise NotReadableError(f"{path} cannot be read: {error}") from error
